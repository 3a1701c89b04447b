//! The KV cache of a running model: the tokens it holds, and what each layer keeps of them.

mod feed;
mod layer;
mod layer_kv;
mod one_piece;
mod pages;
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
pub(crate) use layer_kv::{CacheLayers, CacheLayout, LayerKv};
pub(crate) use pages::PageSource;
use pages::Pages;
pub use plan::{KvFormat, KvPolicy, WINDOW_TOKENS, WhenFull};
pub(crate) use plan::{KvPlan, PagedPlan, window_tokens};
pub(crate) use state::{Keeps, StateArrays, StateBuffers, StateShape};
pub(crate) use stored::{Stored, common_pages};
pub(crate) use traffic::PageTraffic;
pub(crate) use twins::Twins;

/// Sealed pages that are attended to at once where some have to be read: few enough to be read ahead twice.
const BATCH_PAGES: usize = 4;

/// And where all are in memory: enough for 64 threads to find parts, whatever the heads.
const BATCH_PAGES_IN_MEMORY: usize = 64;

/// What all layers keep, and the tokens that it is of.
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
    /// Layers that have memory for their window alone.
    rings: Vec<Ring>,
    /// Where the tokens end that were ever written behind the first one that is held.
    written_tokens: usize,
    pub(crate) layers: Vec<LayerKv>,
}

/// Memory that a layer writes to anew when it is full.
#[derive(Debug, Clone, Copy)]
struct Ring {
    /// How many tokens a token sees.
    window: usize,
    capacity_tokens: usize,
}

#[derive(Debug)]
enum Store {
    Plain(Tail),
    Paged(Arc<Pages>),
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
    /// Takes the memory of a cache in one piece: room for `capacities` tokens in each layer that has keys and values, and sees a
    /// window of `windows`.
    pub(crate) fn plain(
        layers: CacheLayers<'_>,
        shape: KvShape,
        windows: &[Option<usize>],
        capacities: &[usize],
        context_tokens: usize,
    ) -> Result<Self, ModelError> {
        let CacheLayers { layout, budget, .. } = layers;
        // It counts the tokens. The memory of its layers would be as long for each.
        let tail = Tail::new(shape, 0, context_tokens, budget)?;
        let KvDtype::F32 = shape.dtype else {
            unreachable!("no cache is made in {:?}", shape.dtype);
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

    /// Takes the memory of a cache in pages. `source` is there if memory has no room for all of them, or if they are to be
    /// kept; `twins` if they are to be shared and each needs one.
    pub(crate) fn paged(
        layers: CacheLayers<'_>,
        plan: &PagedPlan,
        identity: Identity,
        source: Option<PageSource>,
        twins: Option<Twins>,
        traffic: PageTraffic,
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
            stored_tokens: 0,
            stored_exactly: true,
            rings: Vec::new(),
            written_tokens: 0,
            layers,
        }
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
        self.written_tokens = self.written_tokens.max(self.token_ids.len());
        match &self.store {
            Store::Plain(tail) => {
                tail.room(ids.len())?;
            }
            Store::Paged(pages) => pages.append_tokens(self.held_tokens, ids),
        }
        Ok(self.held_tokens)
    }

    /// The pass has ended, and nothing computes any more. If it is complete, its tokens are held; if not, those that were, or,
    /// if too much of them has left the window, none.
    ///
    /// # Errors
    /// What went wrong with a page while it computed: then nothing it computed is right.
    pub(crate) fn end(&mut self, is_complete: bool) -> Result<(), ModelError> {
        let mut failure = match &self.store {
            Store::Plain(_) => None,
            Store::Paged(pages) => pages.take_failure(),
        };
        if is_complete && failure.is_none() {
            // Of one token, or of weights that stay, nobody has evaluated them.
            let lazy = self.layers.iter().flat_map(LayerKv::lazy_arrays);
            failure = mlx_rs::transforms::eval(lazy).err().map(ModelError::from);
        }
        if is_complete && failure.is_none() {
            if let Store::Plain(tail) = &mut self.store {
                tail.append(self.token_ids.len() - self.held_tokens)?;
            }
            self.held_tokens = self.token_ids.len();
            self.layers.iter_mut().for_each(LayerKv::commit_state);
        } else {
            self.layers.iter_mut().for_each(LayerKv::discard_next_state);
            self.finish_appends();
            self.truncate(self.held_tokens)?;
        }
        failure.map_or(Ok(()), Err)
    }

    /// Has what a pass that failed appended to arrays written. Behind another append, MLX would still be reading what the first
    /// one wrote, and copy the whole cache of a layer instead of writing in place.
    fn finish_appends(&self) {
        let arrays = self.layers.iter().flat_map(|layer| match layer {
            LayerKv::Arrays { keys, values } => [Some(keys), values.as_ref()],
            _ => [None, None],
        });
        // The next pass overwrites it, and reports what is wrong with it then.
        if let Err(error) = mlx_rs::transforms::eval(arrays.flatten()) {
            tracing::debug!(%error, "what a failed pass appended cannot be computed");
        }
    }

    /// How many tokens would be left of the first `tokens`: all of them, or none if too much has left the window, or if a layer
    /// has a state of more tokens.
    fn rewind_len(&self, tokens: usize) -> usize {
        let tokens = tokens.min(self.held_tokens);
        let is_end = tokens == self.held_tokens;
        let can_rewind = self.paged_layers().all(|layer| layer.lock().can_rewind(tokens));
        // What the next token sees was not written over.
        let is_there = |ring: &Ring| {
            let first_seen = (tokens + 1).saturating_sub(ring.window);
            first_seen + ring.capacity_tokens >= self.written_tokens
        };
        let is_whole = self.rings.iter().all(is_there);
        if can_rewind && is_whole && (is_end || !self.has_state()) { tokens } else { 0 }
    }

    /// Whether all tokens that are held are known to all layers that ever saw them.
    pub(crate) fn keeps_all(&self) -> bool {
        self.rings.is_empty()
    }

    /// Whether what the held tokens left can be gone on from only as a whole.
    pub(crate) fn has_state(&self) -> bool {
        self.layers.iter().any(|layer| layer.state_bytes().is_some())
    }

    /// Forgets all but the first `tokens` tokens, or all if [they alone](Self::rewind_len) cannot be gone on from; how many are
    /// left.
    pub(crate) fn truncate(&mut self, tokens: usize) -> Result<usize, ModelError> {
        let tokens = self.rewind_len(tokens);
        self.paged_layers().try_for_each(|layer| layer.lock().rewind(tokens))?;
        self.set_held(tokens)?;
        Ok(tokens)
    }

    /// The first `tokens` tokens are held now, and no more.
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

    /// The layers that have keys and values, by their place among those.
    fn kv_layers(&mut self) -> Vec<&mut LayerKv> {
        self.layers.iter_mut().filter(|layer| layer.has_keys_values()).collect()
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
            layer.lock().fill_synthetic(n_tokens)?;
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

/// How many layers have keys and values.
pub(crate) fn n_kv_layers(keeps: &[Keeps]) -> usize {
    keeps.iter().filter(|keeps| **keeps == Keeps::KeysValues).count()
}
