//! The pages of one layer: a window of recent tokens, and what is sealed.

use std::ops::Range;
use std::sync::Arc;

use flash_io::{Budget, PageBuf};
use flash_kv::{HalfLayout, PAGE_TOKENS, PageFormat, PageLayout, to_half};
use half::f16;

use super::BATCH_PAGES;
use super::feed::PageKey;
use super::pages::{Held, Pages, Record};
use crate::ModelError;

/// Keys and values of one layer, in pages.
#[derive(Debug)]
pub(crate) struct PagedLayer {
    layer_idx: usize,
    pages: Arc<Pages>,
    /// Records of pages that are not sealed; page `i` lies in `i % window.len()`.
    window: Vec<PageBuf>,
    /// Of each page that was sealed, its record if that stays in memory.
    sealed: Vec<Option<Arc<Record>>>,
    /// How many do.
    n_held: usize,
    /// Where the tokens end that were written to the window.
    end: usize,
}

/// Some tokens of a page, in a record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageView<'a> {
    /// Position of the first token.
    pub start: usize,
    pub n_tokens: usize,
    pub layout: &'a PageLayout,
    pub record: &'a [u8],
}

impl PagedLayer {
    pub(super) fn new(layer_idx: usize, pages: Arc<Pages>, budget: &Budget) -> Result<Self, ModelError> {
        let n_window = pages.plan.window_pages();
        let record = || PageBuf::new(pages.window.record_bytes(), budget);
        let window = (0..n_window).map(|_| record()).collect::<Result<_, _>>()?;
        Ok(Self { layer_idx, pages, window, sealed: Vec::new(), n_held: 0, end: 0 })
    }

    pub(crate) fn pages(&self) -> &Arc<Pages> {
        &self.pages
    }

    /// The pages that the token at `position` sees sealed: all that end at or before its window.
    fn sealed_at(&self, position: usize) -> usize {
        position.saturating_sub(self.pages.plan.geometry.window_tokens as usize) / PAGE_TOKENS
    }

    /// The tokens of `positions` in runs that see the same pages sealed.
    pub(crate) fn runs(&self, positions: Range<usize>) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for position in positions {
            match runs.last_mut() {
                Some(run) if self.sealed_at(run.start) == self.sealed_at(position) => run.end += 1,
                _ => runs.push(position..position + 1),
            }
        }
        runs
    }

    /// Makes room for a run, which begins at `position`, by sealing what leaves the window. `keys` and `values`, `[n, kv_heads,
    /// head_dim]`, go into the window.
    pub(crate) fn append(&mut self, position: usize, keys: &[f32], values: &[f32]) -> Result<(), ModelError> {
        let n_sealed = self.sealed_at(position);
        while self.sealed.len() < n_sealed {
            self.seal()?;
        }
        let layout = &self.pages.window;
        let token_len = layout.kv_heads() * layout.head_dim();
        let n_window = self.window.len();
        let tokens = keys.chunks_exact(token_len).zip(values.chunks_exact(token_len));
        for (position, (key, value)) in (position..).zip(tokens) {
            let record = self.window[position / PAGE_TOKENS % n_window].as_mut_slice();
            store(layout, layout.keys(), record, position % PAGE_TOKENS, key);
            store(layout, layout.values(), record, position % PAGE_TOKENS, value);
            self.end = position + 1;
        }
        Ok(())
    }

    /// Holds made-up tokens.
    pub(super) fn make_up(&mut self, n_tokens: usize) -> Result<(), ModelError> {
        let token_len = self.pages.window.kv_heads() * self.pages.window.head_dim();
        // Neither alike nor far apart: as much work as any others.
        let page: Vec<f32> =
            (0..PAGE_TOKENS * token_len).map(|i| ((i * 7919 % 2003) as f32 / 1001.5) - 1.0).collect();
        for start in (0..n_tokens).step_by(PAGE_TOKENS) {
            let numbers = &page[..PAGE_TOKENS.min(n_tokens - start) * token_len];
            self.append(start, numbers, numbers)?;
        }
        Ok(())
    }

    /// Seals the next page.
    fn seal(&mut self) -> Result<(), ModelError> {
        let page_idx = self.sealed.len();
        let retention = self.pages.plan.retention;
        // What the next page takes the place of.
        if page_idx >= retention.max_pages {
            self.forget(retention.first_recent(page_idx))?;
        }
        let key = PageKey { layer_idx: self.layer_idx, page_idx };
        let stays = self.n_held < self.pages.plan.held_pages;
        let window = self.window[page_idx % self.window.len()].as_slice();
        let record = self.pages.seal(key, window, stays)?;
        self.n_held += usize::from(record.is_some());
        self.sealed.push(record);
        Ok(())
    }

    /// Gives up a sealed page.
    fn forget(&mut self, page_idx: usize) -> Result<(), ModelError> {
        match self.sealed[page_idx].take() {
            Some(_) => self.n_held -= 1,
            None => self.pages.forget(PageKey { layer_idx: self.layer_idx, page_idx })?,
        }
        Ok(())
    }

    /// Shows the pages that a run, which ends at `end` and is in the window, sees: in order, some at a time.
    pub(crate) fn look(
        &mut self,
        end: usize,
        mut at: impl FnMut(&[PageView<'_>]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let Self { layer_idx, ref pages, ref window, ref sealed, .. } = *self;
        pages.sweep();
        pages.expect_again(layer_idx, end < pages.end());
        let n_sealed = sealed.len();
        let visible: Vec<usize> = pages.plan.retention.visible(n_sealed).collect();
        for batch in visible.chunks(BATCH_PAGES) {
            let held = |&page_idx: &usize| match &sealed[page_idx] {
                Some(record) => Ok(Held::InMemory(Arc::clone(record))),
                None => pages.away(PageKey { layer_idx, page_idx }),
            };
            let records = batch.iter().map(held).collect::<Result<Vec<_>, ModelError>>()?;
            let view = |(page_idx, record)| PageView {
                start: page_idx * PAGE_TOKENS,
                n_tokens: PAGE_TOKENS,
                layout: &pages.sealed,
                record: Held::as_ref(record),
            };
            let views: Vec<_> = batch.iter().copied().zip(&records).map(view).collect();
            at(&views)?;
            drop(records);
            pages.fill();
        }
        let view = |page_idx: usize| {
            let start = page_idx * PAGE_TOKENS;
            let record = window[page_idx % window.len()].as_slice();
            PageView { start, n_tokens: PAGE_TOKENS.min(end - start), layout: &pages.window, record }
        };
        let views: Vec<_> = (n_sealed..end.div_ceil(PAGE_TOKENS)).map(view).collect();
        at(&views)
    }

    /// Whether the first `tokens` tokens can be gone on from: whether the window still has all that the next one sees there.
    pub(super) fn can_rewind(&self, tokens: usize) -> bool {
        let (first, n_sealed) = (self.sealed_at(tokens), self.sealed.len());
        let written = self.end.div_ceil(PAGE_TOKENS);
        let is_in_window = tokens <= self.end && first + self.window.len() >= written && first <= n_sealed;
        // None that it sees was given up.
        let is_whole = first == n_sealed || n_sealed <= self.pages.plan.retention.max_pages;
        tokens == 0 || (is_in_window && is_whole)
    }

    /// Forgets all but the first `tokens` tokens, which [can be gone on from](Self::can_rewind).
    pub(super) fn rewind(&mut self, tokens: usize) -> Result<(), ModelError> {
        let n_sealed = if tokens == 0 { 0 } else { self.sealed_at(tokens) };
        for page_idx in n_sealed..self.sealed.len() {
            self.forget(page_idx)?;
        }
        self.sealed.truncate(n_sealed);
        self.end = tokens;
        Ok(())
    }
}

/// Writes the heads of one token, `[kv_heads, head_dim]`, to their rows.
fn store(layout: &PageLayout, half: &HalfLayout, record: &mut [u8], row: usize, token: &[f32]) {
    let (row_bytes, head_dim) = (layout.row_bytes(), layout.head_dim());
    let rows = &mut record[half.codes.clone()];
    for (head, numbers) in token.chunks_exact(head_dim).enumerate() {
        let out = &mut rows[(head * PAGE_TOKENS + row) * row_bytes..][..row_bytes];
        match layout.format() {
            PageFormat::F16 => to_half(numbers, bytemuck::cast_slice_mut::<u8, f16>(out)),
            _ => out.copy_from_slice(bytemuck::cast_slice(numbers)),
        }
    }
}
