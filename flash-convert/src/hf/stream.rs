//! One parameter from a checkpoint to MLX, a chunk of values at a time.

use flash_io::Catalog;

use super::checkpoint;
use super::plan::Planned;
use crate::error::ConvertError;
use crate::scratch::{Beyond, CHUNK_VALUES, Scratch, Sink};
use crate::source;
use crate::target::float_name;

/// Quantises a parameter into `sink`, or rounds it to its type.
pub(super) fn quantize(
    scratch: &mut Scratch,
    catalog: &Catalog,
    planned: &Planned<'_>,
    sink: &mut Sink<'_>,
) -> Result<(), ConvertError> {
    let float = planned.float();
    for tensor in &planned.parameter.tensors {
        let shard = &catalog.shards()[tensor.shard.0];
        let stored = checkpoint::float(&shard.path, catalog, tensor)?;
        let value_bytes = stored.size_bytes() as u64;
        let n_values = tensor.span.len_bytes() / value_bytes;
        let mut first = 0;
        while first < n_values {
            let len = (n_values - first).min(CHUNK_VALUES as u64) as usize;
            let bytes = &mut scratch.stored[..len * stored.size_bytes()];
            source::read(shard, tensor, tensor.span.start + first * value_bytes, bytes)?;
            if planned.affine.is_none() && stored == float {
                sink(0, bytes)?;
            } else {
                stored.decode_into(bytes, &mut scratch.values[..len]).expect("a slice of the values' length");
                let beyond = |beyond: Beyond| ConvertError::NotFinite {
                    path: shard.path.clone(),
                    tensor: tensor.name.clone(),
                    value_idx: first + beyond.value_idx as u64,
                    float: float_name(beyond.float),
                };
                scratch.round(len, float).map_err(beyond)?;
                match planned.affine {
                    Some(affine) => {
                        scratch.quantize(len, affine, float).map_err(beyond)?;
                        scratch.put_affine(len, affine, float, sink)?;
                    }
                    None => {
                        let bytes = scratch.encode(len, float);
                        sink(0, &scratch.out[..bytes])?;
                    }
                }
            }
            first += len as u64;
        }
    }
    Ok(())
}
