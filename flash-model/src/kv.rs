//! The KV cache of a running model: the tokens it holds, and each layer's keys and values.

mod feed;
mod layer;
mod one_piece;
mod pages;
mod plan;
mod rows;
mod shared;
mod stored;
mod traffic;
mod twins;

use std::sync::Arc;
use std::time::Duration;

use flash_io::Budget;
use flash_kv::{Identity, KvDtype, KvShape, LayerBuffers, PAGE_TOKENS, Tail};
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
use mlx_rs::{Array, Dtype};
use parking_lot::Mutex;

use crate::compute::Backend;
use crate::{ModelError, mlx};

pub(crate) use layer::{PageView, PagedLayer};
pub(crate) use pages::PageSource;
use pages::Pages;
pub use plan::{KvFormat, KvPolicy, WINDOW_TOKENS, WhenFull};
pub(crate) use plan::{KvPlan, PagedPlan};
pub(crate) use stored::{Stored, common_pages};
pub(crate) use traffic::PageTraffic;
pub(crate) use twins::Twins;

/// Sealed pages that are attended to at once: enough for all threads, few enough to be read ahead twice.
const BATCH_PAGES: usize = 4;

/// Keys and values of all layers, and the tokens that they are of.
#[derive(Debug)]
pub(crate) struct KvCache {
    store: Store,
    token_ids: Vec<u32>,
    /// How many of them are held; the others pass.
    held_tokens: usize,
    /// How many of those came from a session, which may have lost some precision on its way.
    stored_tokens: usize,
    /// Whether it had not.
    stored_exactly: bool,
    pub(crate) layers: Vec<LayerKv>,
}

#[derive(Debug)]
enum Store {
    Plain(Tail),
    Paged(Arc<Pages>),
}

/// Keys and values of one layer.
#[derive(Debug)]
pub(crate) enum LayerKv {
    /// As arrays, each `[1, kv_heads, capacity_tokens, head_dim]`; no values if they are in the keys.
    Arrays { keys: Array, values: Option<Array> },
    /// Shared with nodes of the graph, each `[kv_heads, capacity_tokens, head_dim]`. A node locks them while it runs, and
    /// the stream runs one after the other: nobody waits.
    Shared(Arc<Mutex<LayerBuffers>>),
    /// In pages; shared likewise.
    Paged(Arc<Mutex<PagedLayer>>),
}

/// What a cache in pages has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct KvStats {
    /// Bytes written to the disk.
    pub written_bytes: u64,
    /// Bytes read from there.
    pub read_bytes: u64,
    /// How long computing waited for pages.
    pub waited: Duration,
    /// How long sealing took, which it waited for, too.
    pub sealing: Duration,
}

impl KvCache {
    /// Takes the memory of a cache in one piece.
    pub(crate) fn plain(
        backend: &Backend,
        shape: KvShape,
        n_layers: usize,
        context_tokens: usize,
        budget: &Budget,
    ) -> Result<Self, ModelError> {
        let mut tail = Tail::new(shape, n_layers, context_tokens, budget)?;
        let KvDtype::F32 = shape.dtype else {
            unreachable!("no cache is made in {:?}", shape.dtype);
        };
        let capacity_tokens = tail.capacity_tokens();
        let layers = (0..n_layers)
            .map_while(|layer_idx| tail.take_layer(layer_idx))
            .map(|buffers| backend.layer_kv(buffers, shape.kv_heads, capacity_tokens, shape.head_dim))
            .collect::<Result<_, Exception>>()?;
        Ok(Self::new(Store::Plain(tail), layers))
    }

    /// Takes the memory of a cache in pages. `source` is there if memory has no room for all of them, or if they are to be
    /// kept; `twins` if they are to be shared and each needs one.
    pub(crate) fn paged(
        plan: &PagedPlan,
        identity: Identity,
        source: Option<PageSource>,
        twins: Option<Twins>,
        traffic: PageTraffic,
        budget: &Budget,
    ) -> Result<Self, ModelError> {
        let pages = Arc::new(Pages::new(*plan, identity, source, twins, traffic, budget)?);
        let layer = |layer_idx| {
            let layer = PagedLayer::new(layer_idx, Arc::clone(&pages), budget)?;
            Ok(LayerKv::Paged(Arc::new(Mutex::new(layer))))
        };
        let layers = (0..plan.geometry.n_layers as usize).map(layer).collect::<Result<_, ModelError>>()?;
        Ok(Self::new(Store::Paged(pages), layers))
    }

    fn new(store: Store, layers: Vec<LayerKv>) -> Self {
        Self { store, token_ids: Vec::new(), held_tokens: 0, stored_tokens: 0, stored_exactly: true, layers }
    }

    /// Tokens that a context can have.
    pub(crate) fn context_tokens(&self) -> usize {
        match &self.store {
            Store::Plain(tail) => tail.capacity_tokens(),
            Store::Paged(pages) => pages.plan.context_tokens,
        }
    }

    /// Tokens that are held.
    pub(crate) fn held_tokens(&self) -> usize {
        self.held_tokens
    }

    /// Which they are.
    pub(crate) fn held(&self) -> &[u32] {
        &self.token_ids[..self.held_tokens]
    }

    /// A pass of these tokens begins, behind those that are held; the position of the first.
    pub(crate) fn begin(&mut self, ids: &[u32]) -> Result<usize, ModelError> {
        self.token_ids.truncate(self.held_tokens);
        self.token_ids.extend_from_slice(ids);
        match &self.store {
            Store::Plain(tail) => {
                tail.room(ids.len())?;
            }
            Store::Paged(pages) => pages.pass(self.held_tokens, ids),
        }
        Ok(self.held_tokens)
    }

    /// The pass has ended, and nothing computes any more. If it is complete, its tokens are held; if not, those that were, or,
    /// if too much of them has left the window, none.
    ///
    /// # Errors
    /// What went wrong with a page while it computed: then nothing it computed is right.
    pub(crate) fn end(&mut self, is_complete: bool) -> Result<(), ModelError> {
        let failure = match &self.store {
            Store::Plain(_) => None,
            Store::Paged(pages) => pages.take_failure(),
        };
        if is_complete && failure.is_none() {
            if let Store::Plain(tail) = &mut self.store {
                tail.append(self.token_ids.len() - self.held_tokens)?;
            }
            self.held_tokens = self.token_ids.len();
        } else {
            self.truncate(self.held_tokens)?;
        }
        failure.map_or(Ok(()), Err)
    }

    /// How many tokens would be left of the first `tokens`: all of them, or none if too much has left the window.
    fn rewindable(&self, tokens: usize) -> usize {
        let tokens = tokens.min(self.held_tokens);
        let can_rewind = self.paged_layers().all(|layer| layer.lock().can_rewind(tokens));
        if can_rewind { tokens } else { 0 }
    }

    /// Forgets all but the first `tokens` tokens, or all if too much of them has left the window; how many are left.
    pub(crate) fn truncate(&mut self, tokens: usize) -> Result<usize, ModelError> {
        let tokens = self.rewindable(tokens);
        self.paged_layers().try_for_each(|layer| layer.lock().rewind(tokens))?;
        self.hold(tokens)?;
        Ok(tokens)
    }

    /// The first `tokens` tokens are held now, and no more.
    fn hold(&mut self, tokens: usize) -> Result<(), ModelError> {
        self.held_tokens = tokens;
        self.token_ids.truncate(tokens);
        self.stored_tokens = self.stored_tokens.min(tokens);
        match &mut self.store {
            Store::Plain(tail) => {
                tail.truncate(tokens);
                Ok(())
            }
            Store::Paged(pages) => pages.cut(tokens / PAGE_TOKENS),
        }
    }

    fn paged_layers(&self) -> impl Iterator<Item = &Mutex<PagedLayer>> {
        self.layers.iter().filter_map(|layer| match layer {
            LayerKv::Paged(layer) => Some(&**layer),
            _ => None,
        })
    }

    /// Holds made-up tokens, as if they had passed.
    pub(crate) fn make_up(&mut self, n_tokens: usize) -> Result<(), ModelError> {
        let ids: Vec<u32> = (0..n_tokens as u32).collect();
        self.truncate(0)?;
        self.begin(&ids)?;
        for layer in &self.layers {
            let LayerKv::Paged(layer) = layer else { continue };
            layer.lock().make_up(n_tokens)?;
        }
        self.end(true)
    }

    pub(crate) fn stats(&self) -> KvStats {
        match &self.store {
            Store::Plain(_) => KvStats::default(),
            Store::Paged(pages) => pages.stats(),
        }
    }
}

impl LayerKv {
    /// Its pages, if it is in pages.
    fn paged(&self) -> Option<Arc<Mutex<PagedLayer>>> {
        match self {
            Self::Paged(layer) => Some(Arc::clone(layer)),
            _ => None,
        }
    }

    /// Arrays of `dims` over the buffers.
    pub(crate) fn arrays(buffers: LayerBuffers, dims: &[i32]) -> Result<Self, Exception> {
        let LayerBuffers { keys, values } = buffers;
        let alias = |buffer| mlx::alias(buffer, dims, Dtype::Float32);
        Ok(Self::Arrays { keys: alias(keys)?, values: values.map(alias).transpose()? })
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
    use flash_kv::Halves;

    use super::*;

    const SHAPE: KvShape =
        KvShape { kv_heads: 2, head_dim: 4, halves: Halves::KeysAndValues, dtype: KvDtype::F32 };

    fn cache(budget: &Budget) -> KvCache {
        KvCache::plain(&Backend::Mlx, SHAPE, 1, 10, budget).unwrap()
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
