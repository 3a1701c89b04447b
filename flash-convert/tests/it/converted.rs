//! Runs conversions and reads their output.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use flash_convert::gguf::BlockFormat;
use flash_convert::{Conversion, ConvertError, Report, SHARD_BYTES_DEFAULT, Target};
use flash_kernels::{Affine, FloatType};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::builder::Builder;
use crate::tiny::{Folder, N_HEADS, N_KV_HEADS};

/// A tensor of the output.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// A model directory of the output.
pub(crate) struct Converted {
    pub(crate) config: Value,
    pub(crate) tensors: BTreeMap<String, Stored>,
    pub(crate) report: Report,
}

pub(crate) fn open_error(gguf: &Builder) -> ConvertError {
    Conversion::open(&Folder::new(gguf).gguf()).unwrap_err()
}

pub(crate) fn convert(gguf: &Builder, target: Target) -> Converted {
    let folder = Folder::new(gguf);
    let report = run(&folder, target, SHARD_BYTES_DEFAULT).unwrap();
    read(&folder.out(), report)
}

pub(crate) fn run(folder: &Folder, target: Target, shard_bytes: u64) -> Result<Report, ConvertError> {
    let conversion = Conversion::open(&folder.gguf())?;
    let plan = conversion.plan(target, shard_bytes)?;
    plan.run(&folder.out(), &mut |_| ControlFlow::Continue(()))
}

pub(crate) fn read(dir: &Path, report: Report) -> Converted {
    let mut tensors = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let bytes = fs::read(path).unwrap();
            for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
                let stored =
                    Stored { dtype: view.dtype(), shape: view.shape().to_vec(), bytes: view.data().to_vec() };
                assert!(tensors.insert(name.to_owned(), stored).is_none(), "{name} twice");
            }
        }
    }
    Converted { config: json(&dir.join("config.json")), tensors, report }
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

impl Stored {
    fn float(&self) -> FloatType {
        match self.dtype {
            Dtype::F32 => FloatType::F32,
            Dtype::F16 => FloatType::F16,
            Dtype::BF16 => FloatType::BF16,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn values(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.bytes.len() / self.float().size_bytes()];
        self.float().decode_into(&self.bytes, &mut values).unwrap();
        values
    }
}

impl Converted {
    /// Returns the values of a parameter, dequantised according to config.json.
    pub(crate) fn values(&self, name: &str) -> Vec<f32> {
        let stored = &self.tensors[name];
        let Some(module) = name.strip_suffix(".weight") else {
            return stored.values();
        };
        let Some(scales) = self.tensors.get(&format!("{module}.scales")) else {
            return stored.values();
        };
        let biases = &self.tensors[&format!("{module}.biases")];
        let quantization = &self.config["quantization"];
        let params = quantization.get(module).unwrap_or(quantization);
        let number = |key: &str| params[key].as_u64().unwrap();
        let affine = Affine::new(number("bits") as u32, number("group_size") as usize).unwrap();
        assert_eq!(params["mode"], "affine");
        let n_cols = stored.shape[1] * 32 / affine.bits() as usize;
        assert_eq!(scales.shape, [stored.shape[0], n_cols / affine.group_size()]);
        assert_eq!((&scales.shape, scales.dtype), (&biases.shape, biases.dtype));
        let mut values = vec![0.0; stored.shape[0] * n_cols];
        affine
            .dequantize_row(scales.float(), &stored.bytes, &scales.bytes, &biases.bytes, &mut values)
            .unwrap();
        values
    }
}

/// Returns MLX's name of a GGUF tensor.
pub(crate) fn mlx_name(gguf_name: &str) -> String {
    let name = gguf_name
        .replace("blk.", "model.layers.")
        .replace("token_embd.", "model.embed_tokens.")
        .replace("output_norm.", "model.norm.")
        .replace("attn_norm.", "input_layernorm.")
        .replace("ffn_norm.", "post_attention_layernorm.")
        .replace("ffn_", "mlp.");
    let name = ["gate", "up", "down"]
        .iter()
        .fold(name, |name, part| name.replace(&format!("mlp.{part}."), &format!("mlp.{part}_proj.")));
    let name = [("attn_q", "q"), ("attn_k", "k"), ("attn_v", "v"), ("attn_output", "o")]
        .iter()
        .fold(name, |name, (from, to)| name.replace(from, &format!("self_attn.{to}_proj")));
    if name == "output.weight" { "lm_head.weight".to_owned() } else { name }
}

/// Returns the expected values of the parameters of a GGUF file, by MLX's names.
pub(crate) fn meant(gguf: &Builder) -> BTreeMap<String, Vec<f32>> {
    let of = |tensor: &crate::builder::Tensor| {
        let kind = flash_convert::gguf::GgmlType::from_id(tensor.type_id).unwrap();
        let n_values = tensor.dims.iter().product::<u64>() as usize;
        let mut values = vec![0.0; n_values];
        BlockFormat::of(kind).unwrap().dequantize(&tensor.data, &mut values);
        let n_heads = match &tensor.name {
            name if name.contains("attn_q.") => N_HEADS,
            name if name.contains("attn_k.") => N_KV_HEADS,
            _ => return (mlx_name(&tensor.name), values),
        };
        let n_cols = if tensor.dims.len() == 2 { tensor.dims[0] as usize } else { 1 };
        (mlx_name(&tensor.name), split_halves(&values, n_heads as usize, n_cols))
    };
    gguf.tensors.iter().map(of).collect()
}

/// Computes `w.reshape(n_heads, -1, 2, n_cols).swapaxes(1, 2)`, with which Hugging Face's converter undoes the
/// permutation.
fn split_halves(values: &[f32], n_heads: usize, n_cols: usize) -> Vec<f32> {
    let n_pairs = values.len() / n_heads / 2 / n_cols;
    let mut out = Vec::new();
    for head in 0..n_heads {
        for half in 0..2 {
            for pair in 0..n_pairs {
                let row = (head * n_pairs + pair) * 2 + half;
                out.extend(&values[row * n_cols..(row + 1) * n_cols]);
            }
        }
    }
    out
}
