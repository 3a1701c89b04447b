//! The parameters of a model and the GGUF tensors that hold them.

use std::collections::HashMap;

use super::config::Config;
use super::family::Architecture;
use crate::error::ConvertError;
use crate::gguf::{BlockFormat, GgufFile, TensorInfo};

/// Name of the tensor with RoPE frequency factors, which is not a parameter.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";

/// A parameter of the model and the GGUF tensor with its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// The MLX module, such as `model.layers.0.self_attn.q_proj`.
    pub(crate) module: String,
    /// Parameter of the module: `weight` or `bias`.
    pub(crate) parameter: &'static str,
    /// The GGUF tensor.
    pub(crate) tensor: TensorInfo,
    /// Block format of the values.
    pub(crate) format: BlockFormat,
    /// Whether the shape is `[n_rows, n_cols]`, which MLX can quantize, rather than `[n_rows]`.
    pub(crate) is_matrix: bool,
    /// Number of rows; for a vector, its length.
    pub(crate) n_rows: u64,
    /// Values in a row; 1 for a vector.
    pub(crate) n_cols: u64,
    /// Head size of queries and keys whose rows are interleaved in GGUF (see [`source_row`](Self::source_row)).
    pub(crate) interleaved_head_dim: Option<u64>,
    /// Whether GGUF stores every value with 1 added.
    pub(crate) is_offset_by_one: bool,
}

impl Source {
    /// Returns the row of the GGUF tensor that is row `row` of the MLX parameter.
    ///
    /// RoPE rotates pairs of rows of a head. Hugging Face and MLX pair row `i` of the lower half with row `i` of the
    /// upper half; llama.cpp's converter stores the two next to each other.
    pub(crate) fn source_row(&self, row: u64) -> u64 {
        let Some(head_dim) = self.interleaved_head_dim else {
            return row;
        };
        let (head, row) = (row / head_dim, row % head_dim);
        let (half, pair) = (row / (head_dim / 2), row % (head_dim / 2));
        head * head_dim + 2 * pair + half
    }

    /// Returns the number of values.
    pub(crate) fn n_values(&self) -> u64 {
        self.n_rows * self.n_cols
    }
}

/// A parameter that the architecture requires.
struct Wanted {
    /// Name of the GGUF tensor.
    gguf: String,
    module: String,
    parameter: &'static str,
    /// Dimensions, fastest-varying first as in GGUF.
    dims: Vec<u64>,
    is_interleaved: bool,
    is_offset_by_one: bool,
}

/// Returns the parameters of the model in execution order; fails if a tensor of the file is not one of them.
pub(super) fn sources(
    gguf: &GgufFile,
    architecture: &Architecture,
    config: &Config,
) -> Result<Vec<Source>, ConvertError> {
    let path = gguf.path();
    let mut left: HashMap<&str, &TensorInfo> =
        gguf.header().tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    left.remove(ROPE_FREQS);
    let mut sources = Vec::with_capacity(left.len());
    for wanted in wanted(architecture, config) {
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
            interleaved_head_dim: wanted.is_interleaved.then_some(config.head_dim.into()),
            is_offset_by_one: wanted.is_offset_by_one,
        });
    }
    // Reports the smallest name, so that the message does not depend on the order of the hash map.
    match left.into_keys().min() {
        None => Ok(sources),
        Some(tensor) => Err(ConvertError::UnknownTensor { path: path.to_owned(), tensor: tensor.to_owned() }),
    }
}

/// Iterates over the parameters that the settings imply, in execution order; lazily, because a hostile file can claim
/// any number of layers.
fn wanted(architecture: &Architecture, config: &Config) -> impl Iterator<Item = Wanted> {
    let hidden = u64::from(config.hidden_size);
    let vocab = u64::from(config.vocab_size);
    let simple = |gguf: &str, module: &str, dims: Vec<u64>| Wanted {
        gguf: format!("{gguf}.weight"),
        module: module.to_owned(),
        parameter: "weight",
        is_offset_by_one: architecture.is_gemma && dims.len() == 1,
        dims,
        is_interleaved: false,
    };
    let head = (!config.tie_word_embeddings).then(|| simple("output", "lm_head", vec![hidden, vocab]));
    std::iter::once(simple("token_embd", "model.embed_tokens", vec![hidden, vocab]))
        .chain((0..config.num_hidden_layers).flat_map(|layer_idx| layer(architecture, config, layer_idx)))
        .chain([simple("output_norm", "model.norm", vec![hidden])])
        .chain(head)
}

/// A module of a layer.
struct Module {
    gguf: &'static str,
    mlx: &'static str,
    /// None for a norm, whose weight is a vector.
    n_cols: Option<u64>,
    n_rows: u64,
    has_bias: bool,
    is_interleaved: bool,
}

impl Module {
    fn norm(gguf: &'static str, mlx: &'static str, len: u64) -> Self {
        Self { gguf, mlx, n_cols: None, n_rows: len, has_bias: false, is_interleaved: false }
    }

    fn linear(gguf: &'static str, mlx: &'static str, n_cols: u64, n_rows: u64, has_bias: bool) -> Self {
        Self { gguf, mlx, n_cols: Some(n_cols), n_rows, has_bias, is_interleaved: false }
    }

    fn interleaved(self, is_interleaved: bool) -> Self {
        Self { is_interleaved, ..self }
    }
}

/// Returns the modules of a layer in execution order.
fn modules(architecture: &Architecture, config: &Config) -> Vec<Module> {
    let hidden = u64::from(config.hidden_size);
    let inner = u64::from(config.intermediate_size);
    let head = u64::from(config.head_dim);
    let q = u64::from(config.num_attention_heads) * head;
    let kv = u64::from(config.num_key_value_heads) * head;
    let (attn, mlp) = (config.attention_bias == Some(true), config.mlp_bias == Some(true));
    let qkv = architecture.has_qkv_biases.unwrap_or(attn);
    let is_interleaved = architecture.is_interleaved;
    let mut modules = vec![
        Module::norm("attn_norm", "input_layernorm", hidden),
        Module::linear("attn_q", "self_attn.q_proj", hidden, q, qkv).interleaved(is_interleaved),
        Module::linear("attn_k", "self_attn.k_proj", hidden, kv, qkv).interleaved(is_interleaved),
        Module::linear("attn_v", "self_attn.v_proj", hidden, kv, qkv),
    ];
    if architecture.has_qk_norms {
        modules.push(Module::norm("attn_q_norm", "self_attn.q_norm", head));
        modules.push(Module::norm("attn_k_norm", "self_attn.k_norm", head));
    }
    modules.push(Module::linear("attn_output", "self_attn.o_proj", q, hidden, attn));
    if architecture.is_gemma {
        modules.push(Module::norm("post_attention_norm", "post_attention_layernorm", hidden));
        modules.push(Module::norm("ffn_norm", "pre_feedforward_layernorm", hidden));
    } else {
        modules.push(Module::norm("ffn_norm", "post_attention_layernorm", hidden));
    }
    modules.extend([
        Module::linear("ffn_gate", "mlp.gate_proj", hidden, inner, mlp),
        Module::linear("ffn_up", "mlp.up_proj", hidden, inner, mlp),
        Module::linear("ffn_down", "mlp.down_proj", inner, hidden, mlp),
    ]);
    if architecture.is_gemma {
        modules.push(Module::norm("post_ffw_norm", "post_feedforward_layernorm", hidden));
    }
    modules
}

/// Returns the parameters of a layer in execution order.
fn layer(architecture: &Architecture, config: &Config, layer_idx: u32) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for Module { gguf, mlx, n_cols, n_rows, has_bias, is_interleaved } in modules(architecture, config) {
        let parameter = |parameter: &'static str, dims: Vec<u64>| Wanted {
            gguf: format!("blk.{layer_idx}.{gguf}.{parameter}"),
            module: format!("model.layers.{layer_idx}.{mlx}"),
            parameter,
            dims,
            is_interleaved,
            is_offset_by_one: architecture.is_gemma && n_cols.is_none(),
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
            is_offset_by_one: false,
        };
        let rows: Vec<u64> = (0..12).map(|row| source.source_row(row)).collect();
        assert_eq!(rows, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }
}
