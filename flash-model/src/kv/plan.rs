//! Storage policy of the KV cache, and the memory it takes.

use flash_io::PageBuf;
use flash_kv::{Geometry, KvShape, PAGE_TOKENS, PageFormat, PageLayout};

/// Bytes of prefetched pages: enough reads in flight to keep a disk busy, and as many pages waiting to be used.
const FEED_BYTES: usize = 16 << 20;
/// Minimum prefetched pages: two batches.
const FEED_PAGES_MIN: usize = 2 * super::BATCH_PAGES;
/// Maximum prefetched pages: more reads of small pages add nothing.
const FEED_PAGES_MAX: usize = 32;
/// Bytes of sealed records that wait to be written, beside those that stay in memory. It covers all layers where it
/// can, so that the token that seals them does not wait for the disk.
const UNWRITTEN_BYTES: usize = 16 << 20;
/// Minimum records that may wait to be written.
const UNWRITTEN_RECORDS_MIN: usize = 8;

/// Default tokens that stay at 16 bits, as in mlx-flash.
pub const WINDOW_TOKENS: usize = PAGE_TOKENS;

/// Storage policy of the KV cache. Create it with [`new`](Self::new), then set fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvPolicy {
    /// Format of tokens that have left the window.
    pub format: KvFormat,
    /// Number of most recent tokens that stay at 16 bits if older ones are quantized; rounded up to whole pages.
    pub window_tokens: usize,
    /// Maximum number of tokens to keep; `None` keeps all. Beyond it, the oldest pages are evicted.
    pub max_tokens: Option<usize>,
    /// Number of first tokens that are never evicted.
    pub keep_tokens: usize,
    /// Maximum bytes of sealed pages on disk.
    pub max_bytes: Option<u64>,
    /// The action when sealed pages reach `max_bytes`.
    pub when_full: WhenFull,
    /// Whether the cache is paged even if it could be contiguous, as sessions and shared prefixes require.
    pub is_paged: bool,
    /// Whether the context only grows: it is neither truncated nor saved. In a contiguous cache, layers with a sliding
    /// window then have memory for that window only, if CPU kernels compute. A [`truncate`] to a token whose window has
    /// been overwritten clears the cache, and so does a failed pass after that.
    ///
    /// [`truncate`]: crate::Engine::truncate
    pub is_append_only: bool,
}

/// The action when sealed pages reach [`KvPolicy::max_bytes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WhenFull {
    /// End the context.
    #[default]
    End,
    /// Evict the oldest pages, except the first tokens that are always kept.
    EvictOldest,
}

/// Storage format of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum KvFormat {
    /// f32, as computed: in memory if they fit, else in pages on disk.
    #[default]
    Exact,
    /// Half precision.
    F16,
    /// 8-bit codes.
    Int8,
    /// 4-bit codes.
    Int4,
}

impl Default for KvPolicy {
    fn default() -> Self {
        Self {
            format: KvFormat::default(),
            window_tokens: WINDOW_TOKENS,
            max_tokens: None,
            keep_tokens: PAGE_TOKENS,
            max_bytes: None,
            when_full: WhenFull::default(),
            is_paged: false,
            is_append_only: false,
        }
    }
}

impl KvFormat {
    /// Returns the formats of sealed pages and of the window.
    fn pages(self) -> (PageFormat, PageFormat) {
        match self {
            Self::Exact => (PageFormat::F32, PageFormat::F32),
            Self::F16 => (PageFormat::F16, PageFormat::F16),
            Self::Int8 => (PageFormat::Int8, PageFormat::F16),
            Self::Int4 => (PageFormat::Int4, PageFormat::F16),
        }
    }
}

/// The eviction rule for sealed pages.
///
/// The pages that a token sees depend on its position only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retention {
    /// Maximum pages to keep.
    pub max_pages: usize,
    /// The first pages, which are never evicted.
    pub keep_pages: usize,
}

impl Retention {
    const ALL: Self = Self { max_pages: usize::MAX, keep_pages: 0 };

    /// Returns the first recent page that is kept when `n_sealed` pages have been sealed.
    pub(crate) fn first_recent(&self, n_sealed: usize) -> usize {
        n_sealed.saturating_sub(self.max_pages) + self.keep_pages.min(n_sealed)
    }

    /// Returns the pages that are kept when `n_sealed` pages have been sealed.
    pub(crate) fn visible(&self, n_sealed: usize) -> impl Iterator<Item = usize> + use<> {
        let recent = self.first_recent(n_sealed);
        (0..self.keep_pages.min(n_sealed)).chain(recent..n_sealed)
    }

    /// Returns the place of a page in the file; new pages reuse the places of evicted ones.
    pub(crate) fn place(&self, page_idx: usize) -> usize {
        if page_idx < self.max_pages {
            return page_idx;
        }
        self.keep_pages + (page_idx - self.keep_pages) % (self.max_pages - self.keep_pages)
    }
}

/// Returns how many pages are sealed for the token at `position`: all that end at or before its window.
pub(super) fn sealed_pages(geometry: &Geometry, position: usize) -> usize {
    position.saturating_sub(geometry.window_tokens as usize) / PAGE_TOKENS
}

/// Returns the tokens that a layer with a sliding `window` needs memory for when chunks of `chunk_tokens` pass: all
/// that they see, in whole pages, wherever in a page the window begins.
pub(crate) fn window_tokens(window: usize, chunk_tokens: usize) -> usize {
    let seen_tokens = window.saturating_add(chunk_tokens) - 1;
    (seen_tokens.saturating_sub(2) / PAGE_TOKENS + 2).saturating_mul(PAGE_TOKENS)
}

/// The memory plan of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KvPlan {
    /// Contiguous keys and values.
    Plain {
        shape: KvShape,
        /// Tokens that each layer has memory for: the whole context, or its window.
        capacities: Vec<usize>,
        context_tokens: usize,
    },
    /// A window and sealed pages.
    Paged(PagedPlan),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PagedPlan {
    pub geometry: Geometry,
    pub retention: Retention,
    /// Maximum tokens of a context.
    pub context_tokens: usize,
    /// Maximum sealed pages at once.
    pub n_pages: usize,
    /// Sealed pages that stay in memory.
    pub held_pages: usize,
    /// Slots for prefetched pages; 0 if all pages stay in memory.
    pub feed_pages: usize,
}

impl KvPlan {
    /// Returns the maximum tokens of a context.
    pub(crate) fn context_tokens(&self) -> usize {
        match self {
            Self::Plain { shape, context_tokens, .. } => shape.whole_pages(*context_tokens),
            Self::Paged(plan) => plan.context_tokens,
        }
    }

    /// Returns how many tokens a pass may compute behind `held_tokens` that are committed or taken back later: in pages, up
    /// to the end of the page, so that none of them overwrites what the window of the held tokens needs.
    pub(crate) fn tentative_room(&self, held_tokens: usize) -> usize {
        match self {
            // Ring buffers have room for a chunk beside their window.
            Self::Plain { .. } => PAGE_TOKENS,
            Self::Paged(_) => PAGE_TOKENS - held_tokens % PAGE_TOKENS,
        }
    }

    /// Returns whether every layer has memory for all tokens, not only for its window.
    pub(crate) fn has_full_memory(&self) -> bool {
        match self {
            Self::Plain { shape, capacities, .. } => {
                capacities.iter().all(|tokens| shape.whole_pages(*tokens) >= self.context_tokens())
            }
            Self::Paged(_) => true,
        }
    }

    /// Returns the bytes of the cache in a budget.
    pub(crate) fn budget_bytes(&self) -> u64 {
        match self {
            Self::Plain { shape, capacities, .. } => {
                let buffer_bytes = |tokens: &usize| PageBuf::cost_bytes(layer_bytes(*shape, *tokens));
                shape.parts.count() as u64 * capacities.iter().map(buffer_bytes).sum::<u64>()
            }
            Self::Paged(plan) => plan.budget_bytes(),
        }
    }
}

impl KvPolicy {
    /// Creates a policy that keeps all tokens, and stores those that have left the window in `format`.
    pub fn new(format: KvFormat) -> Self {
        Self { format, ..Self::default() }
    }

    /// Returns the minimum of [`max_tokens`](Self::max_tokens): the kept tokens, the window, one page to evict and one
    /// being filled, all in whole pages.
    pub fn max_tokens_min(&self) -> usize {
        let pages = self.keep_tokens.div_ceil(PAGE_TOKENS) + self.window_tokens.div_ceil(PAGE_TOKENS) + 2;
        pages.saturating_mul(PAGE_TOKENS)
    }

    /// Returns whether the cache may be contiguous.
    pub(crate) fn is_plain(&self) -> bool {
        self.format == KvFormat::Exact && self.max_tokens.is_none() && !self.is_paged
    }

    /// Returns whether old tokens are evicted for new ones.
    pub(crate) fn rotates(&self) -> bool {
        self.max_tokens.is_some() || (self.max_bytes.is_some() && self.when_full == WhenFull::EvictOldest)
    }

    /// Returns the geometry, which together with the model determines the bits of a cache.
    pub(crate) fn geometry(&self, shape: KvShape, n_layers: usize) -> Geometry {
        let (format, window_format) = self.format.pages();
        // If pages are sealed in the window's format, the length of the window changes no bit, so it is normalized.
        let window_tokens = if format == window_format { WINDOW_TOKENS } else { self.window_tokens };
        Geometry {
            n_layers: n_layers as u32,
            kv_heads: shape.kv_heads as u32,
            head_dim: shape.head_dim as u32,
            parts: shape.parts,
            format,
            window_format,
            window_tokens: shape.whole_pages(window_tokens) as u32,
        }
    }
}

impl PagedPlan {
    /// Plans a cache with at most `held_pages` sealed pages in memory.
    pub(crate) fn new(
        policy: &KvPolicy,
        shape: KvShape,
        n_layers: usize,
        context_tokens: usize,
        held_pages: usize,
    ) -> Self {
        let geometry = policy.geometry(shape, n_layers);
        let window_tokens = geometry.window_tokens as usize;
        let record_bytes = geometry.layout().record_bytes();
        let pages_of_bytes = policy.max_bytes.map(|bytes| bytes as usize / (n_layers * record_bytes));
        let pages_of_tokens = policy
            .max_tokens
            .map(|max_tokens| max_tokens.saturating_sub(window_tokens + PAGE_TOKENS) / PAGE_TOKENS);
        let (context_tokens, evicting) = match (pages_of_bytes, policy.when_full) {
            (Some(max_pages), WhenFull::End) => {
                // The last token whose window begins in the page after the last one.
                let end = window_tokens.saturating_add(PAGE_TOKENS.saturating_mul(max_pages + 1));
                (context_tokens.min(end), None)
            }
            (pages, _) => (context_tokens, pages),
        };
        let max_pages = pages_of_tokens.into_iter().chain(evicting).min();
        let retention = max_pages.map_or(Retention::ALL, |max_pages| {
            let keep_pages = policy.keep_tokens.div_ceil(PAGE_TOKENS);
            // At least one page is evictable.
            Retention { max_pages: max_pages.max(keep_pages + 1), keep_pages }
        });
        let n_sealed = context_tokens.saturating_sub(window_tokens) / PAGE_TOKENS;
        let n_pages = n_sealed.min(retention.max_pages);
        let held_pages = held_pages.min(n_pages);
        let feed_pages = match n_pages - held_pages {
            0 => 0,
            _ => (FEED_BYTES / record_bytes).clamp(FEED_PAGES_MIN, FEED_PAGES_MAX),
        };
        Self { geometry, retention, context_tokens, n_pages, held_pages, feed_pages }
    }

    /// Plans the pages to hold in memory when `room_bytes` are shared with `weights_bytes` of weights: all pages, or
    /// the same fraction of pages and weights, because a token reads both once.
    pub(crate) fn choose(
        policy: &KvPolicy,
        shape: KvShape,
        n_layers: usize,
        context_tokens: usize,
        room_bytes: u64,
        weights_bytes: u64,
    ) -> Self {
        let with = |held_pages| Self::new(policy, shape, n_layers, context_tokens, held_pages);
        let (all, least) = (with(usize::MAX), with(0));
        if all.budget_bytes() + weights_bytes <= room_bytes || all.budget_bytes() <= least.budget_bytes() {
            return all;
        }
        let pages_bytes = all.n_pages as u64 * all.page_bytes();
        let spare_bytes = room_bytes.saturating_sub(least.budget_bytes());
        let part = spare_bytes as f64 / (pages_bytes + weights_bytes).max(1) as f64;
        with((part * all.n_pages as f64) as usize)
    }

    /// Returns the pages of each layer's window, including one that it reaches into partly.
    pub(crate) fn window_pages(&self) -> usize {
        self.geometry.window_pages() + 1
    }

    /// Returns the number of records for sealed pages.
    pub(crate) fn n_records(&self) -> usize {
        let unwritten = if self.is_all_held() { 0 } else { self.unwritten_records() };
        self.held_pages * self.geometry.n_layers as usize + unwritten
    }

    /// Returns how many records may wait to be written.
    pub(super) fn unwritten_records(&self) -> usize {
        let n_layers = self.geometry.n_layers as usize;
        (UNWRITTEN_BYTES / self.geometry.layout().record_bytes()).min(n_layers).max(UNWRITTEN_RECORDS_MIN)
    }

    /// Returns whether all pages stay in memory.
    pub(crate) fn is_all_held(&self) -> bool {
        self.held_pages == self.n_pages
    }

    /// Returns the bytes of one page of all layers in a budget.
    fn page_bytes(&self) -> u64 {
        record_cost_bytes(&self.geometry.layout()) * u64::from(self.geometry.n_layers)
    }

    fn budget_bytes(&self) -> u64 {
        let window_records = u64::from(self.geometry.n_layers) * self.window_pages() as u64;
        let window_bytes = window_records * record_cost_bytes(&self.geometry.window_layout());
        window_bytes
            + (self.n_records() + self.feed_pages) as u64 * record_cost_bytes(&self.geometry.layout())
    }
}

/// Returns the bytes of the keys, or the values, of a contiguous layer of `tokens` tokens.
pub(super) fn layer_bytes(shape: KvShape, tokens: usize) -> usize {
    shape.whole_pages(tokens) * shape.key_token_bytes()
}

/// Returns the bytes of a record in a budget.
fn record_cost_bytes(layout: &PageLayout) -> u64 {
    PageBuf::cost_bytes(layout.record_bytes())
}

#[cfg(test)]
mod tests {
    use flash_kv::{KvDtype, KvParts};
    use proptest::prelude::*;

    use super::*;

    const SHAPE: KvShape =
        KvShape { kv_heads: 2, head_dim: 64, parts: KvParts::KeysAndValues, dtype: KvDtype::F32 };

    #[test]
    fn more_room_never_holds_fewer_pages_and_never_exceeds_the_room() {
        let policy = KvPolicy { format: KvFormat::Int8, ..KvPolicy::default() };
        let least_bytes = PagedPlan::new(&policy, SHAPE, 4, 10_000, 0).budget_bytes();
        let mut held_before = 0;
        for room_bytes in (least_bytes..least_bytes + (80 << 20)).step_by(1 << 20) {
            let plan = PagedPlan::choose(&policy, SHAPE, 4, 10_000, room_bytes, 20 << 20);
            assert!(plan.budget_bytes() <= room_bytes, "{plan:?} in {room_bytes}");
            assert!(plan.held_pages >= held_before);
            held_before = plan.held_pages;
        }
        assert_eq!(held_before, (10_000 - WINDOW_TOKENS) / PAGE_TOKENS, "all of them");
    }

    proptest! {
        #[test]
        fn window_memory_has_room_for_all_tokens_that_a_chunk_sees(
            window in 1_usize..600,
            chunk_tokens in 1_usize..200,
            position in 0_usize..1000,
        ) {
            let first = (position + 1).saturating_sub(window);
            let pages = (position + chunk_tokens).div_ceil(PAGE_TOKENS) - first / PAGE_TOKENS;
            prop_assert!(pages * PAGE_TOKENS <= window_tokens(window, chunk_tokens));
        }

        #[test]
        fn retention_keeps_the_first_and_the_most_recent_pages_in_distinct_places(
            keep_pages in 0_usize..4,
            recent_pages in 1_usize..6,
            n_sealed in 0_usize..40,
        ) {
            let retention = Retention { max_pages: keep_pages + recent_pages, keep_pages };
            let visible: Vec<_> = retention.visible(n_sealed).collect();
            prop_assert_eq!(visible.len(), n_sealed.min(retention.max_pages));
            prop_assert!(visible.is_sorted());
            prop_assert!((0..keep_pages.min(n_sealed)).all(|page| visible.contains(&page)));
            prop_assert!(n_sealed == 0 || visible.contains(&(n_sealed - 1)));
            let mut places: Vec<_> = visible.iter().map(|page| retention.place(*page)).collect();
            places.sort_unstable();
            places.dedup();
            prop_assert_eq!(places.len(), visible.len());
            prop_assert!(places.iter().all(|place| *place < retention.max_pages));
        }
    }
}
