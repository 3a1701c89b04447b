//! Checkpoints of Hugging Face, quantised as mlx-lm does.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use flash_convert::{Checkpoint, ConvertError, Quantized, SHARD_BYTES_DEFAULT};
use flash_kernels::FloatType;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// What mlx-lm makes of made-up checkpoints; `make_quantized.py` regenerates it.
const GOLDENS: &str = include_str!("../goldens/quantized.json");

#[derive(Deserialize)]
struct Goldens {
    cases: Vec<Case>,
}

#[derive(Deserialize, Clone)]
struct Case {
    config: Value,
    dtype: String,
    bits: u32,
    group_size: usize,
    /// Names and shapes of the checkpoint, in the order that gives their values.
    tensors: Vec<String>,
    quantization: Value,
    /// Type, shape and hash of each tensor of the model.
    quantized: Map<String, Value>,
}

/// A directory to convert, and room beside it.
struct Folder {
    dir: tempfile::TempDir,
}

fn cases() -> Vec<Case> {
    serde_json::from_str::<Goldens>(GOLDENS).unwrap().cases
}

fn case(model_type: &str) -> Case {
    cases().into_iter().find(|case| case.config["model_type"] == model_type).unwrap()
}

/// Numbers between -1/8 and 1/8 (`SplitMix64`), as `make_quantized.py` makes them.
fn value(tensor_idx: usize, value_idx: usize) -> f32 {
    let seed = (value_idx as u64).wrapping_add((tensor_idx as u64) << 32);
    let z = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    let z = z ^ z >> 31;
    ((z >> 40) as f32 / (1 << 23) as f32 - 1.0) / 8.0
}

fn dtype(name: &str) -> (Dtype, FloatType) {
    match name {
        "F32" => (Dtype::F32, FloatType::F32),
        "F16" => (Dtype::F16, FloatType::F16),
        "BF16" => (Dtype::BF16, FloatType::BF16),
        other => panic!("{other}"),
    }
}

impl Case {
    /// Name, shape and bytes of the tensors of the checkpoint.
    fn tensors(&self) -> Vec<(String, Vec<usize>, Vec<u8>)> {
        let (_, float) = dtype(&self.dtype);
        let tensors = self.tensors.iter().enumerate().map(|(tensor_idx, line)| {
            let (name, shape) = line.split_once(' ').unwrap();
            let shape: Vec<usize> = serde_json::from_str(shape).unwrap();
            let values: Vec<f32> =
                (0..shape.iter().product()).map(|idx| float.round(value(tensor_idx, idx))).collect();
            let mut bytes = vec![0; values.len() * float.size_bytes()];
            float.encode_into(&values, &mut bytes).unwrap();
            (name.to_owned(), shape, bytes)
        });
        tensors.collect()
    }
}

impl Folder {
    /// The checkpoint of a case, in files of so many tensors.
    fn new(case: &Case, tensors_a_shard: usize) -> Self {
        Self::of(&case.config, &case.dtype, &case.tensors(), tensors_a_shard)
    }

    fn of(
        config: &Value,
        dtype_name: &str,
        tensors: &[(String, Vec<usize>, Vec<u8>)],
        tensors_a_shard: usize,
    ) -> Self {
        let folder = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(folder.hf()).unwrap();
        folder.write("config.json", config.to_string().as_bytes());
        let n_shards = tensors.len().div_ceil(tensors_a_shard);
        for (shard_idx, tensors) in tensors.chunks(tensors_a_shard).enumerate() {
            let views = tensors.iter().map(|(name, shape, bytes)| {
                (name, TensorView::new(dtype(dtype_name).0, shape.clone(), bytes).unwrap())
            });
            let name = match n_shards {
                1 => "model.safetensors".to_owned(),
                n => format!("model-{:05}-of-{n:05}.safetensors", shard_idx + 1),
            };
            folder.write(&name, &safetensors::serialize(views, None).unwrap());
        }
        folder
    }

    fn hf(&self) -> PathBuf {
        self.dir.path().join("hf")
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.hf().join(name), bytes).unwrap();
    }

    fn quantize(&self, bits: u32, group_size: usize, shard_bytes: u64) -> Result<Quantized, ConvertError> {
        let checkpoint = Checkpoint::open(&self.hf())?;
        let plan = checkpoint.quantize(bits, group_size, shard_bytes)?;
        plan.run(&self.out(), &mut |_| ControlFlow::Continue(()))
    }

    #[track_caller]
    fn error(&self) -> ConvertError {
        let error = self.quantize(4, 64, SHARD_BYTES_DEFAULT).unwrap_err();
        assert!(!self.out().exists(), "nothing is left");
        error
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The tensors of a model, as the goldens describe them.
fn described(dir: &Path) -> Map<String, Value> {
    let mut described = Map::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let bytes = fs::read(path).unwrap();
            for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
                let hash: String =
                    Sha256::digest(view.data()).iter().map(|byte| format!("{byte:02x}")).collect();
                let shape: Vec<_> = view.shape().iter().map(ToString::to_string).collect();
                let text = format!("{:?} [{}] {hash}", view.dtype(), shape.join(", "));
                assert_eq!(described.insert(name.to_owned(), text.into()), None, "{name} twice");
            }
        }
    }
    described
}

#[test]
fn every_tensor_is_bit_for_bit_what_mlx_lm_makes_of_it() {
    for case in cases() {
        let folder = Folder::new(&case, usize::MAX);
        let report = folder.quantize(case.bits, case.group_size, SHARD_BYTES_DEFAULT).unwrap();
        let model_type = &case.config["model_type"];
        let found = described(&folder.out());
        for (name, wanted) in &case.quantized {
            assert_eq!(found.get(name), Some(wanted), "{model_type}: {name}");
        }
        assert_eq!(found.len(), case.quantized.len(), "{model_type}");
        let config = json(&folder.out().join("config.json"));
        assert_eq!(config["quantization"], case.quantization, "{model_type}");
        assert_eq!(config["quantization_config"], case.quantization, "{model_type}");
        assert_eq!(config["model_type"], *model_type);
        let n_quantized = found.keys().filter(|name| name.ends_with(".scales")).count();
        assert_eq!((report.n_quantized, report.n_parameters), (n_quantized, found.len() - 2 * n_quantized));
    }
}

#[test]
fn shards_on_either_side_change_no_tensor() {
    let case = case("qwen3_moe");
    let folder = Folder::new(&case, 3);
    let report = folder.quantize(case.bits, case.group_size, 10_000).unwrap();
    assert!(report.n_shards > 2);
    assert_eq!(described(&folder.out()), case.quantized);
    let index = json(&folder.out().join("model.safetensors.index.json"));
    assert_eq!(index["metadata"]["total_size"], report.total_bytes);
    assert_eq!(index["weight_map"].as_object().unwrap().len(), case.quantized.len());
}

#[test]
fn tokenizer_and_generation_settings_are_taken_over() {
    let folder = Folder::new(&case("llama"), usize::MAX);
    folder.write("tokenizer.json", b"{\"version\": 1}");
    folder.write("chat_template.jinja", b"{{ messages }}");
    folder.write("generation_config.json", b"{\"eos_token_id\": [1, 2]}");
    folder.write("README.md", b"# No part of a model");
    folder.quantize(4, 64, SHARD_BYTES_DEFAULT).unwrap();
    let read = |name: &str| fs::read(folder.out().join(name)).unwrap();
    assert_eq!(read("tokenizer.json"), b"{\"version\": 1}");
    assert_eq!(read("chat_template.jinja"), b"{{ messages }}");
    assert_eq!(json(&folder.out().join("config.json"))["eos_token_id"], json!([1, 2]));
    assert!(!folder.out().join("README.md").exists());
}

#[test]
fn checkpoints_that_cannot_be_quantised_are_refused() {
    let case = case("llama");
    let with = |field: &str, value: Value| {
        let mut case = case.clone();
        case.config[field] = value;
        Folder::new(&case, usize::MAX).error()
    };
    let error = with("model_type", json!("hyena"));
    assert!(matches!(&error, ConvertError::ModelType { found, .. } if found == "hyena"), "{error}");
    let error = with("quantization_config", json!({"quant_method": "fp8"}));
    assert!(matches!(error, ConvertError::Quantized { field: "quantization_config", .. }), "{error}");

    let folder = Folder::new(&case, usize::MAX);
    folder.write("config.json", b"{");
    assert!(matches!(folder.error(), ConvertError::Json { .. }));
    fs::remove_file(folder.hf().join("config.json")).unwrap();
    assert!(matches!(folder.error(), ConvertError::Open { .. }));

    let folder = Folder::new(&case, usize::MAX);
    folder.write("model.safetensors", b"no header");
    assert!(matches!(folder.error(), ConvertError::Checkpoint { .. }));
    let bytes = [0; 64];
    let view = TensorView::new(Dtype::I8, vec![1, 64], &bytes).unwrap();
    folder.write("model.safetensors", &safetensors::serialize([("w.weight", view)], None).unwrap());
    let error = folder.error();
    assert!(matches!(&error, ConvertError::TensorDtype { tensor, .. } if tensor == "w.weight"), "{error}");

    let folder = Folder::new(&case, usize::MAX);
    let error = folder.quantize(7, 64, SHARD_BYTES_DEFAULT).unwrap_err();
    assert!(matches!(error, ConvertError::Target { .. }), "{error}");
}

#[test]
fn a_value_that_is_no_number_is_named_with_its_place() {
    let case = case("llama");
    let mut tensors = case.tensors();
    let name = "model.layers.1.mlp.up_proj.weight";
    let (_, _, bytes) = tensors.iter_mut().find(|(found, ..)| found == name).unwrap();
    bytes[200..202].copy_from_slice(&half::bf16::NAN.to_le_bytes());
    let folder = Folder::of(&case.config, &case.dtype, &tensors, usize::MAX);
    let error = folder.error();
    let ConvertError::NotFinite { tensor, value_idx, .. } = error else { panic!("{error}") };
    assert_eq!((tensor.as_str(), value_idx), (name, 100));
}

#[test]
fn experts_that_are_not_all_there_or_not_alike_are_refused() {
    let case = case("mixtral");
    let of = |tensors: &[(String, Vec<usize>, Vec<u8>)]| {
        Folder::of(&case.config, &case.dtype, tensors, usize::MAX).error()
    };
    let expert = "model.layers.1.block_sparse_moe.experts.1.w2.weight";
    let mut tensors = case.tensors();
    tensors.retain(|(name, ..)| name != expert);
    let error = of(&tensors);
    assert!(matches!(&error, ConvertError::Experts { wanted: Some(3), found: 2, .. }), "{error}");

    let mut tensors = case.tensors();
    let (_, shape, _) = tensors.iter_mut().find(|(name, ..)| name == expert).unwrap();
    shape.swap(0, 1);
    let error = of(&tensors);
    assert!(matches!(&error, ConvertError::ExpertShape { tensor, .. } if tensor == expert), "{error}");

    let mut more = case.clone();
    more.config["num_local_experts"] = json!(u64::MAX);
    let error = Folder::new(&more, usize::MAX).error();
    assert!(matches!(&error, ConvertError::Experts { found: 3, .. }), "{error}");
}

#[test]
fn an_interruption_leaves_nothing() {
    let folder = Folder::new(&case("qwen2"), usize::MAX);
    let checkpoint = Checkpoint::open(&folder.hf()).unwrap();
    let plan = checkpoint.quantize(4, 64, SHARD_BYTES_DEFAULT).unwrap();
    let mut last_bytes = 0;
    let error = plan
        .run(&folder.out(), &mut |progress| {
            assert!(progress.done_bytes > last_bytes && progress.total_bytes == plan.total_bytes());
            last_bytes = progress.done_bytes;
            if last_bytes > 20_000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap_err();
    assert!(matches!(error, ConvertError::Interrupted { .. }), "{error}");
    assert_eq!(fs::read_dir(folder.dir.path()).unwrap().count(), 1, "only the checkpoint is there");
}
