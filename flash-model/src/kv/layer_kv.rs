//! What one layer keeps of the tokens before.

use std::sync::Arc;

use flash_io::{Budget, PageBuf};
use flash_kv::{Halves, KvError, KvShape, LayerBuffers};
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
use mlx_rs::{Array, Dtype};
use parking_lot::Mutex;

use super::layer::PagedLayer;
use super::plan;
use super::state::{Keeps, StateArrays, StateBuffers};
use crate::{ModelError, mlx};

/// How keys, values and states that are not in pages are held, for the backend that computes with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheLayout {
    /// As arrays of MLX's graph.
    Arrays,
    /// As memory that is shared with nodes of the graph.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "for the CPU kernels"))]
    Shared,
}

/// What one layer keeps of the tokens before.
#[derive(Debug)]
pub(crate) enum LayerKv {
    /// Keys and values as arrays, each `[1, kv_heads, capacity_tokens, head_dim]`; no values if they are in the keys.
    Arrays { keys: Array, values: Option<Array> },
    /// Shared with nodes of the graph, each `[kv_heads, capacity_tokens, head_dim]`, where the token at `position` has row
    /// `position % capacity_tokens`. A node locks them while it runs, and the stream runs one after the other: nobody waits.
    Shared(Arc<Mutex<LayerBuffers>>),
    /// In pages; shared likewise.
    Paged(Arc<Mutex<PagedLayer>>),
    /// No keys and values, but a state; shared likewise.
    SharedState(Arc<Mutex<StateBuffers>>),
    /// The same as arrays.
    ArrayState(StateArrays),
    /// Nothing.
    Nothing,
}

/// The layers that a cache is made for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CacheLayers<'a> {
    pub layout: CacheLayout,
    pub keeps: &'a [Keeps],
    pub budget: &'a Budget,
}

impl CacheLayers<'_> {
    /// What each of them keeps, of no token; `kv` makes that of the layer that has this place among those with keys and values.
    pub(super) fn make(
        self,
        mut kv: impl FnMut(usize) -> Result<LayerKv, ModelError>,
    ) -> Result<Vec<LayerKv>, ModelError> {
        let mut n_kv = 0;
        let layer = |keeps: &Keeps| match keeps {
            Keeps::KeysValues => {
                n_kv += 1;
                kv(n_kv - 1)
            }
            Keeps::State(shape) => LayerKv::state(self.layout, *shape, self.budget),
            Keeps::Nothing => Ok(LayerKv::Nothing),
        };
        self.keeps.iter().map(layer).collect()
    }
}

/// The memory of one layer in one piece.
pub(super) fn layer_buffers(
    shape: KvShape,
    capacity_tokens: usize,
    budget: &Budget,
) -> Result<LayerBuffers, ModelError> {
    let buffer = || {
        let pages = PageBuf::new(plan::layer_bytes(shape, capacity_tokens), budget);
        pages.map_err(|source| KvError::Memory { capacity_tokens, source })
    };
    let values = (shape.halves == Halves::KeysAndValues).then(buffer).transpose()?;
    Ok(LayerBuffers { keys: buffer()?, values })
}

impl LayerKv {
    /// Its pages, if it is in pages.
    pub(super) fn paged(&self) -> Option<Arc<Mutex<PagedLayer>>> {
        match self {
            Self::Paged(layer) => Some(Arc::clone(layer)),
            _ => None,
        }
    }

    /// Keys and values of a layer over `buffers`, each `[kv_heads, capacity_tokens, head_dim]`, f32.
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

    /// Writes the keys and values of the next tokens, each `[1, kv_heads, n, head_dim]`, at `position`, and returns those
    /// of all tokens so far. There are values if the layer keeps them beside keys.
    ///
    /// Lazy: MLX writes into the buffer in place when the result is evaluated, because nobody else holds it then.
    pub(crate) fn append(
        &mut self,
        keys: &Array,
        values: Option<&Array>,
        position: usize,
    ) -> Result<(Array, Option<Array>), Exception> {
        let Self::Arrays { keys: all_keys, values: all_values } = self else {
            return Err(Exception::custom("the cache of a layer is not made of arrays"));
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
            _ => return Err(Exception::custom("values are kept beside keys, or are not there")),
        };
        Ok((keys, values))
    }
}

#[cfg(test)]
mod tests {
    use flash_io::Budget;
    use flash_kv::{Halves, KvDtype, KvShape};
    use mlx_rs::Array;
    use mlx_rs::ops::indexing::TryIndexOp;

    use super::super::*;
    use crate::mlx;

    const SHAPE: KvShape =
        KvShape { kv_heads: 2, head_dim: 4, halves: Halves::KeysAndValues, dtype: KvDtype::F32 };

    fn cache(budget: &Budget) -> KvCache {
        let layers = CacheLayers { layout: CacheLayout::Arrays, keeps: &[Keeps::KeysValues], budget };
        KvCache::plain(layers, SHAPE, &[None], &[10], 10).unwrap()
    }

    fn keys_of(layer: &LayerKv) -> &Array {
        match layer {
            LayerKv::Arrays { keys, .. } => keys,
            _ => unreachable!("made of arrays"),
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
            // As in a pass: what was returned before is gone.
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
