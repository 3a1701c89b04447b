use std::collections::HashMap;

use super::config::Config;
use crate::error::ConvertError;
use crate::gguf::{BlockFormat, GgufFile, TensorInfo};

/// The tensor that holds rotary factors instead of parameters.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";

/// A parameter of the model and where its values are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// The MLX module, such as `model.layers.0.self_attn.q_proj`.
    pub(crate) module: String,
    /// Which of its parameters: `weight` or `bias`.
    pub(crate) parameter: &'static str,
    /// The GGUF tensor.
    pub(crate) tensor: TensorInfo,
    /// How its values are stored.
    pub(crate) format: BlockFormat,
    /// Whether it is a matrix `[n_rows, n_cols]` that MLX could quantise, and not a vector `[n_rows]`.
    pub(crate) is_matrix: bool,
    /// Rows; of a vector, its values.
    pub(crate) n_rows: u64,
    /// Values in a row; 1 for a vector.
    pub(crate) n_cols: u64,
    /// For queries and keys: rows of a head, which GGUF has in another order (see [`source_row`](Self::source_row)).
    pub(crate) interleaved_head_dim: Option<u64>,
}

impl Source {
    /// Where the GGUF tensor has row `row` of the MLX parameter.
    ///
    /// Rotary embedding turns pairs of rows of a head. Hugging Face and MLX pair row `i` of the lower half with row `i` of the
    /// upper half; llama.cpp's converter stores the two next to each other.
    pub(crate) fn source_row(&self, row: u64) -> u64 {
        let Some(head_dim) = self.interleaved_head_dim else {
            return row;
        };
        let (head, row) = (row / head_dim, row % head_dim);
        let (half, pair) = (row / (head_dim / 2), row % (head_dim / 2));
        head * head_dim + 2 * pair + half
    }

    /// All values.
    pub(crate) fn n_values(&self) -> u64 {
        self.n_rows * self.n_cols
    }
}

/// Where a parameter is looked for.
struct Wanted {
    gguf: String,
    module: String,
    parameter: &'static str,
    /// The fastest-varying first, as in GGUF.
    dims: Vec<u64>,
    interleaved: bool,
}

/// Every parameter of the model in the order of execution; every tensor of the file is one of them.
pub(super) fn sources(gguf: &GgufFile, config: &Config) -> Result<Vec<Source>, ConvertError> {
    let path = gguf.path();
    let mut left: HashMap<&str, &TensorInfo> =
        gguf.header().tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    left.remove(ROPE_FREQS);
    let mut sources = Vec::with_capacity(left.len());
    for wanted in wanted(config) {
        let Some(tensor) = left.remove(wanted.gguf.as_str()) else {
            return Err(ConvertError::MissingTensor { path: path.to_owned(), tensor: wanted.gguf });
        };
        if tensor.dims != wanted.dims {
            return Err(ConvertError::TensorShape {
                path: path.to_owned(),
                tensor: wanted.gguf,
                wanted: wanted.dims,
                found: tensor.dims.clone(),
            });
        }
        let is_matrix = wanted.dims.len() == 2;
        let format = match BlockFormat::of(tensor.kind) {
            Some(format) if is_matrix || format.float().is_some() => format,
            Some(_) => return Err(ConvertError::tensor_type(path, tensor, "F32, F16, BF16")),
            None => return Err(ConvertError::tensor_type(path, tensor, BlockFormat::KNOWN)),
        };
        let (n_cols, n_rows) = match wanted.dims[..] {
            [n_cols, n_rows] => (n_cols, n_rows),
            _ => (1, wanted.dims[0]),
        };
        sources.push(Source {
            module: wanted.module,
            parameter: wanted.parameter,
            tensor: tensor.clone(),
            format,
            is_matrix,
            n_rows,
            n_cols,
            interleaved_head_dim: wanted.interleaved.then_some(config.head_dim.into()),
        });
    }
    // The least name, so that the message does not depend on the order of a hash map.
    match left.into_keys().min() {
        None => Ok(sources),
        Some(tensor) => Err(ConvertError::UnknownTensor { path: path.to_owned(), tensor: tensor.to_owned() }),
    }
}

/// What the settings ask for, in the order of execution; lazily, for a hostile file may claim any number of layers.
fn wanted(config: &Config) -> impl Iterator<Item = Wanted> {
    let hidden = u64::from(config.hidden_size);
    let vocab = u64::from(config.vocab_size);
    let simple = |gguf: &str, module: &str, dims: Vec<u64>| Wanted {
        gguf: format!("{gguf}.weight"),
        module: module.to_owned(),
        parameter: "weight",
        dims,
        interleaved: false,
    };
    let head = (!config.tie_word_embeddings).then(|| simple("output", "lm_head", vec![hidden, vocab]));
    std::iter::once(simple("token_embd", "model.embed_tokens", vec![hidden, vocab]))
        .chain((0..config.num_hidden_layers).flat_map(|layer_idx| layer(config, layer_idx)))
        .chain([simple("output_norm", "model.norm", vec![hidden])])
        .chain(head)
}

fn layer(config: &Config, layer_idx: u32) -> Vec<Wanted> {
    let hidden = u64::from(config.hidden_size);
    let inner = u64::from(config.intermediate_size);
    let q = u64::from(config.num_attention_heads) * u64::from(config.head_dim);
    let kv = u64::from(config.num_key_value_heads) * u64::from(config.head_dim);
    let (attn, mlp) = (config.attention_bias, config.mlp_bias);
    // GGUF's name, MLX's name, columns (none: a vector), rows, whether there is a bias, whether rows are interleaved.
    let parts = [
        ("attn_norm", "input_layernorm", None, hidden, false, false),
        ("attn_q", "self_attn.q_proj", Some(hidden), q, attn, true),
        ("attn_k", "self_attn.k_proj", Some(hidden), kv, attn, true),
        ("attn_v", "self_attn.v_proj", Some(hidden), kv, attn, false),
        ("attn_output", "self_attn.o_proj", Some(q), hidden, attn, false),
        ("ffn_norm", "post_attention_layernorm", None, hidden, false, false),
        ("ffn_gate", "mlp.gate_proj", Some(hidden), inner, mlp, false),
        ("ffn_up", "mlp.up_proj", Some(hidden), inner, mlp, false),
        ("ffn_down", "mlp.down_proj", Some(inner), hidden, mlp, false),
    ];
    let mut wanted = Vec::with_capacity(2 * parts.len());
    for (gguf, module, n_cols, n_rows, has_bias, interleaved) in parts {
        let parameter = |parameter: &'static str, dims: Vec<u64>| Wanted {
            gguf: format!("blk.{layer_idx}.{gguf}.{parameter}"),
            module: format!("model.layers.{layer_idx}.{module}"),
            parameter,
            dims,
            interleaved,
        };
        wanted.push(parameter("weight", n_cols.into_iter().chain([n_rows]).collect()));
        if has_bias {
            wanted.push(parameter("bias", vec![n_rows]));
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::GgmlType;

    #[test]
    fn source_rows_pair_the_halves_of_each_head() {
        let source = Source {
            module: String::new(),
            parameter: "weight",
            tensor: TensorInfo {
                name: String::new(),
                dims: vec![1, 12],
                kind: GgmlType::from_id(0).unwrap(),
                offset: 0,
                bytes: 48,
            },
            format: BlockFormat::F32,
            is_matrix: true,
            n_rows: 12,
            n_cols: 1,
            interleaved_head_dim: Some(6),
        };
        let rows: Vec<u64> = (0..12).map(|row| source.source_row(row)).collect();
        assert_eq!(rows, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }
}
