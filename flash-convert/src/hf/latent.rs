//! Latent attention of DeepSeek-V3: checkpoints have one up-projection for the keys and values of all heads, the model
//! has two stacks (keys and values) with one matrix for each head.

use flash_io::{Catalog, Tensor};
use serde_json::{Map, Value};

use super::parameter::{Content, Parameter, Piece, Rows};
use super::{int4, tensors};
use crate::error::ConvertError;

/// Suffix of the up-projection.
const MATRIX: &str = ".self_attn.kv_b_proj.weight";

/// Fields of config.json and their defaults.
const N_HEADS: (&str, u64) = ("num_attention_heads", 32);
const NOPE_DIM: (&str, u64) = ("qk_nope_head_dim", 128);
const V_DIM: (&str, u64) = ("v_head_dim", 128);

/// Returns the parameters made from the up-projection; None for any other tensor.
///
/// The rows of each head are split into those of the key, which are transposed, and those of the value.
pub(super) fn parameters(
    catalog: &Catalog,
    config: &Map<String, Value>,
    tensor: &Tensor,
    content: &Content,
) -> Result<Option<Vec<Parameter>>, ConvertError> {
    let name = int4::matrix(&tensor.name).unwrap_or(&tensor.name);
    let Some(layer) = name.strip_suffix(MATRIX) else { return Ok(None) };
    let Content::Floats { float, pieces } = content else {
        // Transposing quantized weights would change their groups.
        let (path, tensor, found) = (tensors::shard_path(catalog, tensor), tensor.name.clone(), tensor.dtype);
        return Err(ConvertError::TensorDtype { path, tensor, found });
    };
    let Some(Piece { encoding, .. }) = pieces.first() else { return Ok(None) };
    let field = |(name, default): (&str, u64)| config.get(name).and_then(Value::as_u64).unwrap_or(default);
    let [n_heads, nope_dim, v_dim] = [N_HEADS, NOPE_DIM, V_DIM].map(field);
    let n_rows = nope_dim.checked_add(v_dim).and_then(|head_dim| head_dim.checked_mul(n_heads));
    let n_cols = match *tensor.shape.as_slice() {
        [found, n_cols] if nope_dim > 0 && v_dim > 0 && n_rows == Some(found) => n_cols,
        _ => {
            let wanted = format!("[{n_heads} · ({nope_dim} + {v_dim}), latent]");
            return Err(tensors::shape_error(catalog, tensor, wanted));
        }
    };
    let stack = |name: &str, first: u64, count: u64, is_transposed: bool| {
        let piece = |head_idx: u64| {
            let first = head_idx * (nope_dim + v_dim) + first;
            let rows = Rows { first, count, step: 1, n_cols, is_transposed };
            Piece { tensor: tensor.clone(), encoding: encoding.clone(), rows }
        };
        let shape = if is_transposed { vec![n_heads, n_cols, count] } else { vec![n_heads, count, n_cols] };
        let content = Content::Floats { float: *float, pieces: (0..n_heads).map(piece).collect() };
        Parameter { name: format!("{layer}.self_attn.{name}.weight"), shape, content }
    };
    Ok(Some(vec![stack("embed_q", 0, nope_dim, true), stack("unembed_out", nope_dim, v_dim, false)]))
}
