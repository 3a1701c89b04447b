//! The KV cache of a running model: the tail's buffers as arrays.

use std::sync::Arc;

use flash_io::Budget;
use flash_kv::{KvDtype, KvShape, LayerBuffers, Tail};
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
use mlx_rs::{Array, Dtype};
use parking_lot::Mutex;

use crate::compute::Backend;
use crate::{ModelError, mlx};

/// Keys and values of all layers.
#[derive(Debug)]
pub(crate) struct KvCache {
    pub(crate) tail: Tail,
    pub(crate) layers: Vec<LayerKv>,
}

/// Keys and values of one layer.
#[derive(Debug)]
pub(crate) enum LayerKv {
    /// As arrays, each `[1, kv_heads, capacity_tokens, head_dim]`.
    Arrays { keys: Array, values: Array },
    /// Shared with nodes of the graph, each `[kv_heads, capacity_tokens, head_dim]`. A node locks them while it runs, and
    /// the stream runs one after the other: nobody waits.
    Shared(Arc<Mutex<LayerBuffers>>),
}

impl KvCache {
    pub(crate) fn new(
        backend: &Backend,
        shape: KvShape,
        n_layers: usize,
        capacity_tokens: usize,
        budget: &Budget,
    ) -> Result<Self, ModelError> {
        let mut tail = Tail::new(shape, n_layers, capacity_tokens, budget)?;
        let KvDtype::F32 = shape.dtype else {
            unreachable!("no cache is made in {:?}", shape.dtype);
        };
        let capacity_tokens = tail.capacity_tokens();
        let layers = (0..n_layers)
            .map_while(|layer_idx| tail.take_layer(layer_idx))
            .map(|buffers| backend.layer_kv(buffers, shape.kv_heads, capacity_tokens, shape.head_dim))
            .collect::<Result<_, Exception>>()?;
        Ok(Self { tail, layers })
    }
}

impl LayerKv {
    /// Arrays of `dims` over the buffers.
    pub(crate) fn arrays(buffers: LayerBuffers, dims: &[i32]) -> Result<Self, Exception> {
        let LayerBuffers { keys, values } = buffers;
        Ok(Self::Arrays {
            keys: mlx::alias(keys, dims, Dtype::Float32)?,
            values: mlx::alias(values, dims, Dtype::Float32)?,
        })
    }

    /// Writes the keys and values of the next tokens, each `[1, kv_heads, n, head_dim]`, at `position`, and returns those
    /// of all tokens so far.
    ///
    /// Lazy: MLX writes into the buffer in place when the result is evaluated, because nobody else holds it then.
    pub(crate) fn append(
        &mut self,
        keys: &Array,
        values: &Array,
        position: usize,
    ) -> Result<(Array, Array), Exception> {
        let Self::Arrays { keys: all_keys, values: all_values } = self else {
            return Err(Exception::custom("the cache of a layer is not made of arrays"));
        };
        let (start, end) = (position as i32, position as i32 + keys.dim(2));
        all_keys.try_index_mut((.., .., start..end, ..), keys)?;
        all_values.try_index_mut((.., .., start..end, ..), values)?;
        Ok((all_keys.try_index((.., .., ..end, ..))?, all_values.try_index((.., .., ..end, ..))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: KvShape = KvShape { kv_heads: 2, head_dim: 4, dtype: KvDtype::F32 };

    fn keys_of(layer: &LayerKv) -> &Array {
        match layer {
            LayerKv::Arrays { keys, .. } => keys,
            LayerKv::Shared(_) => unreachable!("made of arrays"),
        }
    }

    #[test]
    fn append_writes_in_place_and_returns_all_tokens() {
        let budget = Budget::new(1 << 20);
        let mut cache = KvCache::new(&Backend::Mlx, SHAPE, 1, 10, &budget).unwrap();
        let layer = &mut cache.layers[0];
        let before = mlx::address(keys_of(layer));
        let of = |n: i32, value: f32| Array::full::<f32>(&[1, 2, n, 4], Array::from_f32(value)).unwrap();
        let mut all = None;
        for (position, n) in [(0, 3), (3, 1), (4, 2)] {
            // As in a pass: what was returned before is gone.
            drop(all.take());
            let (keys, values) = layer.append(&of(n, 1.0 + position as f32), &of(n, -1.0), position).unwrap();
            mlx_rs::transforms::eval([&keys, &values]).unwrap();
            all = Some(keys);
        }
        assert_eq!(mlx::address(keys_of(layer)), before, "no copy of the cache was made");
        let all = all.unwrap();
        assert_eq!(all.shape(), [1, 2, 6, 4]);
        let first_head: Vec<f32> =
            (0..6).map(|t| all.try_index((0, 0, t, 0)).unwrap().item_exact()).collect();
        assert_eq!(first_head, [1.0, 1.0, 1.0, 4.0, 5.0, 5.0]);
    }
}
