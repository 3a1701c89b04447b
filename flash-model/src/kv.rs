//! The KV cache of a running model: the tail's buffers as arrays.

use flash_io::Budget;
use flash_kv::{KvDtype, KvShape, LayerBuffers, Tail};
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
use mlx_rs::{Array, Dtype};

use crate::{ModelError, mlx};

/// Keys and values of all layers.
#[derive(Debug)]
pub(crate) struct KvCache {
    pub(crate) tail: Tail,
    pub(crate) layers: Vec<LayerKv>,
}

/// Keys and values of one layer, each `[1, kv_heads, capacity_tokens, head_dim]`.
#[derive(Debug)]
pub(crate) struct LayerKv {
    keys: Array,
    values: Array,
}

impl KvCache {
    pub(crate) fn new(
        shape: KvShape,
        n_layers: usize,
        capacity_tokens: usize,
        budget: &Budget,
    ) -> Result<Self, ModelError> {
        let mut tail = Tail::new(shape, n_layers, capacity_tokens, budget)?;
        let dims = [1, shape.kv_heads as i32, tail.capacity_tokens() as i32, shape.head_dim as i32];
        let dtype = match shape.dtype {
            KvDtype::F32 => Dtype::Float32,
            other => unreachable!("no cache is made in {other:?}"),
        };
        let layers = (0..n_layers)
            .map_while(|layer_idx| tail.take_layer(layer_idx))
            .map(|LayerBuffers { keys, values }| {
                Ok(LayerKv {
                    keys: mlx::alias(keys, &dims, dtype)?,
                    values: mlx::alias(values, &dims, dtype)?,
                })
            })
            .collect::<Result<_, Exception>>()?;
        Ok(Self { tail, layers })
    }
}

impl LayerKv {
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
        let (start, end) = (position as i32, position as i32 + keys.dim(2));
        self.keys.try_index_mut((.., .., start..end, ..), keys)?;
        self.values.try_index_mut((.., .., start..end, ..), values)?;
        Ok((self.keys.try_index((.., .., ..end, ..))?, self.values.try_index((.., .., ..end, ..))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: KvShape = KvShape { kv_heads: 2, head_dim: 4, dtype: KvDtype::F32 };

    #[test]
    fn append_writes_in_place_and_returns_all_tokens() {
        let budget = Budget::new(1 << 20);
        let mut cache = KvCache::new(SHAPE, 1, 10, &budget).unwrap();
        let layer = &mut cache.layers[0];
        let before = mlx::address(&layer.keys);
        let of = |n: i32, value: f32| Array::full::<f32>(&[1, 2, n, 4], Array::from_f32(value)).unwrap();
        let mut all = None;
        for (position, n) in [(0, 3), (3, 1), (4, 2)] {
            // As in a pass: what was returned before is gone.
            drop(all.take());
            let (keys, values) = layer.append(&of(n, 1.0 + position as f32), &of(n, -1.0), position).unwrap();
            mlx_rs::transforms::eval([&keys, &values]).unwrap();
            all = Some(keys);
        }
        assert_eq!(mlx::address(&layer.keys), before, "no copy of the cache was made");
        let all = all.unwrap();
        assert_eq!(all.shape(), [1, 2, 6, 4]);
        let first_head: Vec<f32> =
            (0..6).map(|t| all.try_index((0, 0, t, 0)).unwrap().item_exact()).collect();
        assert_eq!(first_head, [1.0, 1.0, 1.0, 4.0, 5.0, 5.0]);
    }
}
