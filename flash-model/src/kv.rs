//! The KV cache of a running model: its token ids, and the keys, values and states of each layer.

mod feed;
mod fork;
mod layer;
mod layer_kv;
mod one_piece;
mod pages;
mod parked;
mod plan;
mod rows;
mod shared;
mod state;
mod stored;
mod traffic;
mod twins;

use std::sync::Arc;
use std::time::Duration;

use flash_kv::{Identity, KvDtype, KvShape, PAGE_TOKENS, Tail};
use parking_lot::Mutex;

use crate::ModelError;

pub(crate) use layer::{PageView, PagedLayer};
use layer_kv::layer_buffers;
pub(crate) use layer_kv::{CacheLayout, CacheSpec, LayerKv};
pub(crate) use pages::PageSource;
use pages::Pages;
pub(crate) use parked::ParkedCache;
pub use plan::{KvFormat, KvPolicy, WINDOW_TOKENS, WhenFull};
pub(crate) use plan::{KvPlan, PagedPlan, window_tokens};
pub(crate) use state::{CacheKind, StateArrays, StateShape};
#[cfg(target_os = "linux")]
pub(crate) use state::{Recorded, StateBuffers};
pub(crate) use stored::{Stored, common_pages};
pub(crate) use traffic::PageCounters;
pub(crate) use twins::{TwinFile, TwinRegion};

/// Sealed pages per attention step when some are on disk: few enough that the next two batches can be read ahead.
const BATCH_PAGES: usize = 4;

/// Sealed pages per attention step when all are in memory: enough to give 64 threads work, whatever the number of
/// heads.
const BATCH_PAGES_IN_MEMORY: usize = 64;

/// The KV cache of all layers, with the ids of its tokens.
#[derive(Debug)]
pub(crate) struct KvCache {
    store: Store,
    token_ids: Vec<u32>,
    /// The first `held_tokens` of `token_ids` are held. The others belong to the pass in progress.
    held_tokens: usize,
    /// Tokens after the held ones that have been computed, and are neither committed nor taken back.
    tentative_tokens: usize,
    /// Held tokens that were restored from a session, possibly with less precision.
    stored_tokens: usize,
    /// Whether the restored tokens are exact.
    stored_exactly: bool,
    /// Ring buffers of layers that only have memory for their window.
    rings: Vec<Ring>,
    /// End of all tokens written since the cache was last empty. Truncation does not lower it, because ring buffers
    /// have been overwritten up to there.
    written_tokens: usize,
    pub(crate) layers: Vec<LayerKv>,
}

/// The ring buffer of a layer with a sliding window.
#[derive(Debug, Clone, Copy)]
struct Ring {
    /// The attention window, in tokens.
    window: usize,
    capacity_tokens: usize,
}

#[derive(Debug)]
enum Store {
    Plain(Tail),
    Paged(Arc<Pages>),
}

/// Statistics of a paged cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct KvStats {
    /// Bytes written to disk.
    pub written_bytes: u64,
    /// Bytes read from disk.
    pub read_bytes: u64,
    /// Time that compute stalled for pages.
    pub waited: Duration,
    /// Time spent on sealing, which also stalls compute.
    pub sealing: Duration,
}

impl KvCache {
    /// Allocates a contiguous cache. `capacities` are the tokens that each layer with keys and values has memory for,
    /// `windows` their attention windows.
    pub(crate) fn plain(
        layers: CacheSpec<'_>,
        shape: KvShape,
        windows: &[Option<usize>],
        capacities: &[usize],
        context_tokens: usize,
    ) -> Result<Self, ModelError> {
        let CacheSpec { layout, budget, .. } = layers;
        // The tail only counts tokens: with no layers, it allocates nothing. Layers allocate their own memory, since
        // capacities differ.
        let tail = Tail::new(shape, 0, context_tokens, budget)?;
        let KvDtype::F32 = shape.dtype else {
            unreachable!("caches are not allocated in {:?}", shape.dtype);
        };
        let layers = layers.make(|layer_idx| {
            let capacity_tokens = shape.whole_pages(capacities[layer_idx]);
            let buffers = layer_buffers(shape, capacity_tokens, budget)?;
            Ok(LayerKv::one_piece(layout, buffers, shape, capacity_tokens)?)
        })?;
        let ring = |(window, capacity): (&Option<usize>, &usize)| {
            let capacity_tokens = shape.whole_pages(*capacity);
            let wraps = capacity_tokens < tail.capacity_tokens();
            window.filter(|_| wraps).map(|window| Ring { window, capacity_tokens })
        };
        let rings = windows.iter().zip(capacities).filter_map(ring).collect();
        Ok(Self { rings, ..Self::new(Store::Plain(tail), layers) })
    }

    /// Allocates a paged cache. `source` is given if not all pages fit in memory or if pages outlive the cache, `twins`
    /// if prefixes are shared and sealed pages are stored in another format than the window's.
    pub(crate) fn paged(
        layers: CacheSpec<'_>,
        plan: &PagedPlan,
        identity: Identity,
        source: Option<PageSource>,
        twins: Option<TwinRegion>,
        traffic: PageCounters,
    ) -> Result<Self, ModelError> {
        let budget = layers.budget;
        let pages = Arc::new(Pages::new(*plan, identity, source, twins, traffic, budget)?);
        let layers = layers.make(|layer_idx| {
            let layer = PagedLayer::new(layer_idx, Arc::clone(&pages), budget)?;
            Ok(LayerKv::Paged(Arc::new(Mutex::new(layer))))
        })?;
        Ok(Self::new(Store::Paged(pages), layers))
    }

    fn new(store: Store, layers: Vec<LayerKv>) -> Self {
        Self {
            store,
            token_ids: Vec::new(),
            held_tokens: 0,
            tentative_tokens: 0,
            stored_tokens: 0,
            stored_exactly: true,
            rings: Vec::new(),
            written_tokens: 0,
            layers,
        }
    }

    /// Returns the maximum tokens of a context.
    pub(crate) fn context_tokens(&self) -> usize {
        match &self.store {
            Store::Plain(tail) => tail.capacity_tokens(),
            Store::Paged(pages) => pages.plan.context_tokens,
        }
    }

    /// Returns the number of held tokens.
    pub(crate) fn held_tokens(&self) -> usize {
        self.held_tokens
    }

    /// Returns the ids of the held tokens.
    pub(crate) fn held(&self) -> &[u32] {
        &self.token_ids[..self.held_tokens]
    }

    /// Returns the number of computed tokens that are neither committed nor taken back.
    pub(crate) fn tentative_tokens(&self) -> usize {
        self.tentative_tokens
    }

    /// Begins a pass of `ids` behind the held tokens, and returns the position of the first. Tokens that were not committed
    /// are taken back.
    pub(crate) fn begin(&mut self, ids: &[u32], is_tentative: bool) -> Result<usize, ModelError> {
        self.commit(0)?;
        for layer in &mut self.layers {
            layer.begin_state(is_tentative && ids.len() > 1);
        }
        self.token_ids.truncate(self.held_tokens);
        self.token_ids.extend_from_slice(ids);
        self.written_tokens = self.written_tokens.max(self.token_ids.len());
        match &self.store {
            Store::Plain(tail) => {
                tail.room(ids.len())?;
            }
            Store::Paged(pages) => pages.append_tokens(self.held_tokens, ids),
        }
        Ok(self.held_tokens)
    }

    /// Ends a pass; no kernel may be running. A complete pass commits its tokens, unless they are tentative. A failed one
    /// is rolled back to the tokens held before, or to an empty cache if their window has been overwritten.
    ///
    /// # Errors
    /// The first page error of the pass, whose outputs are then invalid.
    pub(crate) fn end(&mut self, is_complete: bool, is_tentative: bool) -> Result<(), ModelError> {
        let mut failure = match &self.store {
            Store::Plain(_) => None,
            Store::Paged(pages) => pages.take_failure(),
        };
        if is_complete && failure.is_none() {
            // Passes of one token, or over pinned weights, leave the new states unevaluated.
            let lazy = self.layers.iter().flat_map(LayerKv::lazy_arrays);
            failure = mlx_rs::transforms::eval(lazy).err().map(ModelError::from);
        }
        if is_complete && failure.is_none() {
            self.tentative_tokens = self.token_ids.len() - self.held_tokens;
            if !is_tentative {
                self.commit(self.tentative_tokens)?;
            }
        } else {
            self.layers.iter_mut().for_each(LayerKv::discard_next_state);
            self.finish_appends();
            self.truncate(self.held_tokens)?;
        }
        failure.map_or(Ok(()), Err)
    }

    /// Commits the first `n_tokens` tentative tokens, and takes back the others: nothing of them is left.
    ///
    /// # Errors
    /// Errors of computing a recurrent state again, and of the pages' file. The cache is empty then.
    ///
    /// # Panics
    /// If there are fewer tentative tokens.
    pub(crate) fn commit(&mut self, n_tokens: usize) -> Result<(), ModelError> {
        let committed = self.try_commit(n_tokens);
        if committed.is_err() {
            self.truncate(0)?;
        }
        committed
    }

    fn try_commit(&mut self, n_tokens: usize) -> Result<(), ModelError> {
        let n_tentative = std::mem::take(&mut self.tentative_tokens);
        assert!(n_tokens <= n_tentative, "{n_tokens} of {n_tentative} tentative tokens");
        if n_tentative == 0 {
            return Ok(());
        }
        for layer in &mut self.layers {
            layer.commit_state(n_tokens, n_tentative)?;
        }
        self.held_tokens += n_tokens;
        match &mut self.store {
            Store::Plain(tail) => {
                tail.append(n_tokens)?;
            }
            Store::Paged(pages) if n_tokens < n_tentative => {
                pages.append_tokens(self.held_tokens, &[]);
                self.paged_layers().try_for_each(|layer| layer.lock().rewind(self.held_tokens))?;
            }
            Store::Paged(_) => {}
        }
        self.token_ids.truncate(self.held_tokens);
        Ok(())
    }

    /// Evaluates the appends of a failed pass. If the next append came on top of them, MLX would still hold a reference
    /// to the first result and copy the layer's whole cache instead of writing in place.
    fn finish_appends(&self) {
        let arrays = self.layers.iter().flat_map(|layer| match layer {
            LayerKv::Arrays { keys, values } => [Some(keys), values.as_ref()],
            _ => [None, None],
        });
        // The next pass overwrites these tokens, and reports the error if it persists.
        if let Err(error) = mlx_rs::transforms::eval(arrays.flatten()) {
            tracing::debug!(%error, "the appends of a failed pass cannot be evaluated");
        }
    }

    /// Returns the tokens that a truncation to `tokens` would keep: all of them, or 0 if their window has been
    /// overwritten or a layer has a recurrent state of more tokens.
    fn rewind_len(&self, tokens: usize) -> usize {
        let tokens = tokens.min(self.held_tokens);
        let is_end = tokens == self.held_tokens;
        let can_rewind = self.paged_layers().all(|layer| layer.lock().can_rewind(tokens));
        // The window of the next token has not been overwritten.
        let is_there = |ring: &Ring| {
            let first_seen = (tokens + 1).saturating_sub(ring.window);
            first_seen + ring.capacity_tokens >= self.written_tokens
        };
        let is_whole = self.rings.iter().all(is_there);
        if can_rewind && is_whole && (is_end || !self.has_state()) { tokens } else { 0 }
    }

    /// Returns whether some layers have a recurrent state, which cannot be rewound.
    pub(crate) fn has_state(&self) -> bool {
        self.layers.iter().any(|layer| layer.state_bytes().is_some())
    }

    /// Truncates the cache to the first `tokens` tokens, or clears it if [that is impossible](Self::rewind_len).
    /// Returns the tokens kept.
    pub(crate) fn truncate(&mut self, tokens: usize) -> Result<usize, ModelError> {
        if self.tentative_tokens > 0 {
            self.commit(0)?;
        }
        let tokens = self.rewind_len(tokens);
        self.paged_layers().try_for_each(|layer| layer.lock().rewind(tokens))?;
        self.set_held(tokens)?;
        Ok(tokens)
    }

    /// Sets the held tokens to the first `tokens`, and truncates the page file to match.
    fn set_held(&mut self, tokens: usize) -> Result<(), ModelError> {
        self.held_tokens = tokens;
        self.token_ids.truncate(tokens);
        self.stored_tokens = self.stored_tokens.min(tokens);
        if tokens == 0 {
            self.written_tokens = 0;
            self.layers.iter_mut().try_for_each(LayerKv::clear_state)?;
        }
        match &mut self.store {
            Store::Plain(tail) => {
                tail.truncate(tokens);
                Ok(())
            }
            Store::Paged(pages) => pages.truncate_file(tokens / PAGE_TOKENS),
        }
    }

    /// Returns the layers with keys and values, in order.
    fn kv_layers(&mut self) -> Vec<&mut LayerKv> {
        self.layers.iter_mut().filter(|layer| layer.has_keys_values()).collect()
    }

    fn paged_layers(&self) -> impl Iterator<Item = &Mutex<PagedLayer>> {
        self.layers.iter().filter_map(|layer| match layer {
            LayerKv::Paged(layer) => Some(&**layer),
            _ => None,
        })
    }

    /// Fills the cache with `n_tokens` synthetic tokens, for benchmarks.
    pub(crate) fn fill_synthetic(&mut self, n_tokens: usize) -> Result<(), ModelError> {
        let ids: Vec<u32> = (0..n_tokens as u32).collect();
        self.truncate(0)?;
        self.begin(&ids, false)?;
        for layer in &self.layers {
            let LayerKv::Paged(layer) = layer else { continue };
            layer.lock().fill_synthetic(n_tokens)?;
        }
        self.end(true, false)
    }
}

/// Returns the number of layers with keys and values.
pub(crate) fn n_kv_layers(keeps: &[CacheKind]) -> usize {
    keeps.iter().filter(|keeps| **keeps == CacheKind::KeysValues).count()
}
