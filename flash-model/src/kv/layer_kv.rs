//! The cache of one layer.

use std::sync::Arc;

use flash_io::{Budget, PageBuf};
use flash_kv::{KvError, KvParts, KvShape, LayerBuffers};
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
use mlx_rs::{Array, Dtype};
use parking_lot::Mutex;

use super::layer::PagedLayer;
use super::plan;
use super::state::{CacheKind, StateArrays, StateBuffers};
use crate::{ModelError, mlx};

/// The representation of unpaged keys, values and states, which depends on the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheLayout {
    /// MLX arrays.
    Arrays,
    /// Buffers shared with custom nodes of MLX's graph.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "for the CPU kernels"))]
    Shared,
}

/// The cache of one layer: keys and values, or a recurrent state.
#[derive(Debug)]
pub(crate) enum LayerKv {
    /// Keys and values as MLX arrays, each `[1, kv_heads, capacity_tokens, head_dim]`; no values if they are part of
    /// the keys.
    Arrays { keys: Array, values: Option<Array> },
    /// Keys and values in shared buffers, each `[kv_heads, capacity_tokens, head_dim]`. The token at `position` has row
    /// `position % capacity_tokens`. Nodes lock the buffers while they run; the stream runs one node at a time, so
    /// nothing contends.
    Shared(Arc<Mutex<LayerBuffers>>),
    /// Paged keys and values, shared with nodes.
    Paged(Arc<Mutex<PagedLayer>>),
    /// A recurrent state in shared buffers.
    SharedState(Arc<Mutex<StateBuffers>>),
    /// A recurrent state as MLX arrays.
    ArrayState(StateArrays),
    /// No cache.
    Nothing,
}

/// The layers to allocate a cache for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CacheSpec<'a> {
    pub layout: CacheLayout,
    pub keeps: &'a [CacheKind],
    pub budget: &'a Budget,
}

impl CacheSpec<'_> {
    /// Allocates the empty cache of each layer. `kv` allocates keys and values, and gets the index among the layers
    /// that have them.
    pub(super) fn make(
        self,
        mut kv: impl FnMut(usize) -> Result<LayerKv, ModelError>,
    ) -> Result<Vec<LayerKv>, ModelError> {
        let mut n_kv = 0;
        let layer = |keeps: &CacheKind| match keeps {
            CacheKind::KeysValues => {
                n_kv += 1;
                kv(n_kv - 1)
            }
            CacheKind::State(shape) => LayerKv::state(self.layout, *shape, self.budget),
            CacheKind::Nothing => Ok(LayerKv::Nothing),
        };
        self.keeps.iter().map(layer).collect()
    }
}

/// Allocates contiguous keys and values of one layer.
pub(super) fn layer_buffers(
    shape: KvShape,
    capacity_tokens: usize,
    budget: &Budget,
) -> Result<LayerBuffers, ModelError> {
    let buffer = || {
        let pages = PageBuf::new(plan::layer_bytes(shape, capacity_tokens), budget);
        pages.map_err(|source| KvError::Memory { capacity_tokens, source })
    };
    let values = (shape.parts == KvParts::KeysAndValues).then(buffer).transpose()?;
    Ok(LayerBuffers { keys: buffer()?, values })
}

impl LayerKv {
    /// Returns the paged layer, if it is one.
    pub(super) fn paged(&self) -> Option<Arc<Mutex<PagedLayer>>> {
        match self {
            Self::Paged(layer) => Some(Arc::clone(layer)),
            _ => None,
        }
    }

    /// Wraps `buffers`, each `[kv_heads, capacity_tokens, head_dim]` f32, as the contiguous cache of a layer.
    pub(super) fn one_piece(
        layout: CacheLayout,
        buffers: LayerBuffers,
        shape: KvShape,
        capacity_tokens: usize,
    ) -> Result<Self, Exception> {
        match layout {
            CacheLayout::Shared => Ok(Self::Shared(Arc::new(Mutex::new(buffers)))),
            CacheLayout::Arrays => {
                let LayerBuffers { keys, values } = buffers;
                let dims = [1, shape.kv_heads as i32, capacity_tokens as i32, shape.head_dim as i32];
                let alias = |buffer| mlx::alias(buffer, &dims, Dtype::Float32);
                Ok(Self::Arrays { keys: alias(keys)?, values: values.map(alias).transpose()? })
            }
        }
    }

    /// Writes the keys and values of the next tokens, each `[1, kv_heads, n, head_dim]`, at `position`, and returns
    /// those of all tokens so far. `values` is given if the layer stores them separately.
    ///
    /// Lazy: MLX writes to the buffer in place when the result is evaluated, because nothing else references it then.
    pub(crate) fn append(
        &mut self,
        keys: &Array,
        values: Option<&Array>,
        position: usize,
    ) -> Result<(Array, Option<Array>), Exception> {
        let Self::Arrays { keys: all_keys, values: all_values } = self else {
            return Err(Exception::custom("the cache of the layer is not in arrays"));
        };
        let (start, end) = (position as i32, position as i32 + keys.dim(2));
        let append = |all: &mut Array, new: &Array| {
            all.try_index_mut((.., .., start..end, ..), new)?;
            all.try_index((.., .., ..end, ..))
        };
        let keys = append(all_keys, keys)?;
        let values = match (all_values, values) {
            (Some(all), Some(new)) => Some(append(all, new)?),
            (None, None) => None,
            _ => return Err(Exception::custom("values do not match the cache of the layer")),
        };
        Ok((keys, values))
    }
}

#[cfg(test)]
mod tests {
    use flash_io::Budget;
    use flash_kv::{KvDtype, KvParts, KvShape};
    use mlx_rs::Array;
    use mlx_rs::ops::indexing::TryIndexOp;

    use super::super::*;
    use crate::mlx;

    const SHAPE: KvShape =
        KvShape { kv_heads: 2, head_dim: 4, parts: KvParts::KeysAndValues, dtype: KvDtype::F32 };

    fn cache(budget: &Budget) -> KvCache {
        let layers = CacheSpec { layout: CacheLayout::Arrays, keeps: &[CacheKind::KeysValues], budget };
        KvCache::plain(layers, SHAPE, &[None], &[10], 10).unwrap()
    }

    fn keys_of(layer: &LayerKv) -> &Array {
        match layer {
            LayerKv::Arrays { keys, .. } => keys,
            _ => unreachable!("the cache is in arrays"),
        }
    }

    #[test]
    fn append_writes_in_place_and_returns_all_tokens() {
        let budget = Budget::new(1 << 20);
        let mut cache = cache(&budget);
        let layer = &mut cache.layers[0];
        let before = mlx::address(keys_of(layer));
        let of = |n: i32, value: f32| Array::full::<f32>(&[1, 2, n, 4], Array::from_f32(value)).unwrap();
        let mut all = None;
        for (position, n) in [(0, 3), (3, 1), (4, 2)] {
            // As in a pass, the earlier result has been dropped.
            drop(all.take());
            let (keys, values) =
                layer.append(&of(n, 1.0 + position as f32), Some(&of(n, -1.0)), position).unwrap();
            mlx_rs::transforms::eval([&keys].into_iter().chain(&values)).unwrap();
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
