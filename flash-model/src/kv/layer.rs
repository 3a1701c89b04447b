//! The paged KV cache of one layer: a window of recent tokens, and sealed pages.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use flash_io::{Budget, PageBuf};
use flash_kv::{
    KvError, PAGE_TOKENS, PageFormat, PageLayout, PrefixPart, TensorLayout, seal, to_f16, transcode,
};
use half::f16;

use super::feed::PageKey;
use super::pages::{Pages, Record, SealedPage};
use super::plan::sealed_pages;
use super::rows::pieces;
use super::{BATCH_PAGES, BATCH_PAGES_IN_MEMORY};
use crate::ModelError;

/// The paged keys and values of one layer.
#[derive(Debug)]
pub(crate) struct PagedLayer {
    layer_idx: usize,
    pages: Arc<Pages>,
    /// Records of unsealed pages, as a ring: page `i` is at `i % window.len()`.
    window: Vec<PageBuf>,
    /// The first page that the window has ever held. Earlier pages were adopted sealed.
    window_start: usize,
    /// The record of each sealed page, `None` if it is on disk.
    sealed: Vec<Option<Arc<Record>>>,
    /// Number of sealed pages in memory.
    n_held: usize,
    /// End of the tokens written to the window.
    end: usize,
}

/// A view of some tokens of a page, in its record.
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
        Ok(Self { layer_idx, pages, window, window_start: 0, sealed: Vec::new(), n_held: 0, end: 0 })
    }

    pub(crate) fn pages(&self) -> &Arc<Pages> {
        &self.pages
    }

    fn sealed_at(&self, position: usize) -> usize {
        sealed_pages(&self.pages.plan.geometry, position)
    }

    /// Splits `positions` into runs that see the same pages sealed.
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

    /// Appends the `keys` and `values` of a run at `position`, each `[n, kv_heads, head_dim]`, to the window, after
    /// sealing the pages that leave it. `values` is `None` if they are part of the keys.
    ///
    /// # Errors
    /// [`ModelError::KvRange`] if the window stores 16 bits and a number overflows them.
    pub(crate) fn append(
        &mut self,
        position: usize,
        keys: &[f32],
        values: Option<&[f32]>,
    ) -> Result<(), ModelError> {
        self.seal_due(position)?;
        let layout = &self.pages.window;
        let token_len = layout.kv_heads() * layout.head_dim();
        let n_window = self.window.len();
        for (half, numbers) in layout.stored().zip([keys].into_iter().chain(values)) {
            for (position, token) in (position..).zip(numbers.chunks_exact(token_len)) {
                let record = self.window[position / PAGE_TOKENS % n_window].as_mut_slice();
                store(layout, half, record, position % PAGE_TOKENS, token).map_err(|error| match error {
                    KvError::F16Overflow { number } => {
                        ModelError::KvRange { layer_idx: self.layer_idx, position, number }
                    }
                    other => other.into(),
                })?;
            }
        }
        if !keys.is_empty() {
            self.end = position + keys.len() / token_len;
        }
        Ok(())
    }

    /// Fills the layer with `n_tokens` synthetic tokens.
    pub(super) fn fill_synthetic(&mut self, n_tokens: usize) -> Result<(), ModelError> {
        let token_len = self.pages.window.kv_heads() * self.pages.window.head_dim();
        // Pseudo-random values between -1 and 1, so that attention costs as much as for real tokens.
        let page: Vec<f32> =
            (0..PAGE_TOKENS * token_len).map(|i| ((i * 7919 % 2003) as f32 / 1001.5) - 1.0).collect();
        for start in (0..n_tokens).step_by(PAGE_TOKENS) {
            let numbers = &page[..PAGE_TOKENS.min(n_tokens - start) * token_len];
            self.append(start, numbers, Some(numbers))?;
        }
        Ok(())
    }

    /// Seals all pages that have left the window of the token at `position`.
    pub(super) fn seal_due(&mut self, position: usize) -> Result<(), ModelError> {
        while self.sealed.len() < self.sealed_at(position) {
            let begin = Instant::now();
            let page_idx = self.sealed.len();
            let retention = self.pages.plan.retention;
            // The page whose place in the file the next page takes.
            if page_idx >= retention.max_pages {
                self.evict(retention.first_recent(page_idx))?;
            }
            let (key, stays) = self.next_sealed();
            let n_window = self.window.len();
            let window = self.window[page_idx % n_window].as_mut_slice();
            let pages = &self.pages;
            pages.record_twin(key, window);
            let record = pages.insert_sealed(key, stays, |record| {
                Ok(transcode(&pages.window, window, &pages.sealed, record)?)
            })?;
            self.push_sealed(record);
            self.pages.record_sealing(begin);
        }
        Ok(())
    }

    fn key(&self, page_idx: usize) -> PageKey {
        PageKey { layer_idx: self.layer_idx, page_idx }
    }

    /// Returns the key of the next page to be sealed, and whether it stays in memory.
    fn next_sealed(&self) -> (PageKey, bool) {
        (self.key(self.sealed.len()), self.n_held < self.pages.plan.held_pages)
    }

    /// Appends a sealed page; `record` is `None` if it is on disk.
    fn push_sealed(&mut self, record: Option<Arc<Record>>) {
        self.n_held += usize::from(record.is_some());
        self.sealed.push(record);
    }

    /// Appends a sealed page from elsewhere, whose record is written by `fill`.
    pub(super) fn adopt(
        &mut self,
        fill: impl FnOnce(&mut [u8]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let (key, stays) = self.next_sealed();
        let record = self.pages.insert_sealed(key, stays, fill)?;
        self.push_sealed(record);
        Ok(())
    }

    /// Appends a sealed page that is already in the cache's own file.
    pub(super) fn adopt_from_file(&mut self) -> Result<(), ModelError> {
        let (key, stays) = self.next_sealed();
        let record = self.pages.load_sealed(key, stays)?;
        self.push_sealed(record);
        Ok(())
    }

    /// Appends a sealed page of a cache that was parked, and whose file of pages this is: with the record that `fill` writes
    /// if it was in memory, else with the one in the file, unless it has been evicted.
    pub(super) fn unpark_sealed(
        &mut self,
        fill: Option<impl FnOnce(&mut [u8]) -> Result<(), ModelError>>,
        is_evicted: bool,
    ) -> Result<(), ModelError> {
        let key = self.key(self.sealed.len());
        let record = match fill {
            Some(fill) => Some(self.pages.unpark_sealed(fill)?),
            None => {
                if !is_evicted {
                    self.pages.add_from_file(key);
                }
                None
            }
        };
        self.push_sealed(record);
        Ok(())
    }

    /// Returns the records of sealed pages, none for those on disk or evicted.
    pub(super) fn sealed_records(&self) -> &[Option<Arc<Record>>] {
        &self.sealed
    }

    /// Returns the pages that the window holds and that are not sealed, or can be unsealed.
    pub(super) fn window_pages(&self) -> Range<usize> {
        let end = self.end.div_ceil(PAGE_TOKENS);
        end.saturating_sub(self.window.len()).max(self.window_start)..end
    }

    /// Returns the first page that the window has ever held.
    pub(super) fn window_start(&self) -> usize {
        self.window_start
    }

    /// Sets the extent of a window that is filled next.
    pub(super) fn set_window(&mut self, window_start: usize, end: usize) {
        (self.window_start, self.end) = (window_start, end);
    }

    /// Returns the memory of a page of the window.
    pub(super) fn window_page(&mut self, page_idx: usize) -> &mut [u8] {
        let n_window = self.window.len();
        self.window[page_idx % n_window].as_mut_slice()
    }

    /// Marks the adopted pages and the filled window as a context of `tokens` tokens.
    pub(super) fn finish_restore(&mut self, tokens: usize) {
        self.window_start = self.sealed.len();
        self.end = tokens;
    }

    pub(super) fn n_sealed(&self) -> usize {
        self.sealed.len()
    }

    /// Returns the pages that are not evicted when `n_sealed` are sealed.
    pub(super) fn visible(&self, n_sealed: usize) -> impl Iterator<Item = usize> + use<> {
        self.pages.plan.retention.visible(n_sealed)
    }

    /// Returns the end of the tokens.
    pub(super) fn end(&self) -> usize {
        self.end
    }

    /// Whether pages have been evicted.
    pub(super) fn has_evicted(&self) -> bool {
        self.sealed.len() > self.pages.plan.retention.max_pages
    }

    /// Returns the record of a page of the window.
    pub(super) fn window_record(&self, page_idx: usize) -> &[u8] {
        self.window[page_idx % self.window.len()].as_slice()
    }

    /// Copies tokens of the window to rows `[parts, kv_heads, tokens, head_dim]`; the parts are keys, and values if
    /// they are stored.
    pub(super) fn copy_rows(&self, tokens: Range<usize>, rows: &mut [u8]) {
        for piece in pieces(&self.pages.window, tokens) {
            let record = self.window[piece.page_idx % self.window.len()].as_slice();
            rows[piece.rows].copy_from_slice(&record[piece.record]);
        }
    }

    /// Copies tokens from rows `[parts, kv_heads, tokens, head_dim]` to the window.
    pub(super) fn fill_rows(&mut self, tokens: Range<usize>, rows: &[u8]) {
        let window = self.pages.window.clone();
        for piece in pieces(&window, tokens) {
            self.window_page(piece.page_idx)[piece.record].copy_from_slice(&rows[piece.rows]);
        }
    }

    /// Copies a whole page into a record and writes its header: in the sealed format, or in the window's format.
    pub(super) fn copy(&self, page_idx: usize, part: PrefixPart, out: &mut [u8]) -> Result<(), KvError> {
        let (key, pages) = (self.key(page_idx), &self.pages);
        let layout = match part {
            PrefixPart::Page => &pages.sealed,
            PrefixPart::Twin => &pages.window,
        };
        let window = || self.window[page_idx % self.window.len()].as_slice();
        match (self.sealed.get(page_idx), part) {
            (None, _) => transcode(&pages.window, window(), layout, out)?,
            (Some(_), PrefixPart::Twin) => pages.copy_twin(key, out)?,
            (Some(Some(record)), PrefixPart::Page) => out.copy_from_slice((**record).as_ref()),
            (Some(None), PrefixPart::Page) => pages.copy_spilled(key, out)?,
        }
        seal(out, &pages.head(key, page_idx, layout));
        Ok(())
    }

    /// Evicts a sealed page.
    fn evict(&mut self, page_idx: usize) -> Result<(), ModelError> {
        match self.sealed[page_idx].take() {
            Some(_) => self.n_held -= 1,
            None => self.pages.evict(self.key(page_idx))?,
        }
        Ok(())
    }

    /// Calls `at` with batches of pages that a run in the window sees: those with tokens of `seen`, in order.
    pub(crate) fn look(
        &mut self,
        seen: Range<usize>,
        mut at: impl FnMut(&[PageView<'_>]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let Self { layer_idx, ref pages, ref window, ref sealed, .. } = *self;
        pages.sweep();
        let (first, end) = (seen.start / PAGE_TOKENS, seen.end);
        pages.expect_reads(layer_idx, first, end < pages.n_tokens());
        let n_sealed = sealed.len();
        let visible = pages.plan.retention.visible(n_sealed);
        let visible: Vec<usize> = visible.filter(|page_idx| *page_idx >= first).collect();
        let mut rest = visible.as_slice();
        while !rest.is_empty() {
            let batch;
            (batch, rest) = rest.split_at(batch_len(rest, |page_idx| sealed[page_idx].is_some()));
            let held = |&page_idx: &usize| match &sealed[page_idx] {
                Some(record) => Ok(SealedPage::InMemory(Arc::clone(record))),
                None => pages.fetch_spilled(PageKey { layer_idx, page_idx }),
            };
            let records = batch.iter().map(held).collect::<Result<Vec<_>, ModelError>>()?;
            let view = |(page_idx, record)| PageView {
                start: page_idx * PAGE_TOKENS,
                n_tokens: PAGE_TOKENS,
                layout: &pages.sealed,
                record: SealedPage::as_ref(record),
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
        let views: Vec<_> = (n_sealed.max(first)..end.div_ceil(PAGE_TOKENS)).map(view).collect();
        at(&views)
    }

    /// Returns whether the layer can be rewound to `tokens` tokens: whether everything in the next token's window is
    /// still there.
    pub(super) fn can_rewind(&self, tokens: usize) -> bool {
        let (first, n_sealed) = (self.sealed_at(tokens), self.sealed.len());
        // Pages sealed in the window's format can be copied back to it.
        let is_there = self.pages.sealed == self.pages.window || self.is_in_window(first.min(n_sealed));
        // No page in its window has been evicted.
        let is_whole = first >= n_sealed || n_sealed <= self.pages.plan.retention.max_pages;
        tokens == 0 || (tokens <= self.end && is_there && is_whole)
    }

    /// Returns whether the window still holds a page and all later ones.
    fn is_in_window(&self, page_idx: usize) -> bool {
        page_idx >= self.window_start && page_idx + self.window.len() >= self.end.div_ceil(PAGE_TOKENS)
    }

    /// Truncates the layer to `tokens` tokens, which must [be possible](Self::can_rewind).
    pub(super) fn rewind(&mut self, tokens: usize) -> Result<(), ModelError> {
        let n_sealed = if tokens == 0 { 0 } else { self.sealed_at(tokens) };
        for page_idx in n_sealed..self.sealed.len().min(tokens.div_ceil(PAGE_TOKENS)) {
            if !self.is_in_window(page_idx) {
                self.unseal(page_idx)?;
            }
        }
        self.window_start = self.window_start.min(n_sealed);
        self.keep_sealed(n_sealed)?;
        self.end = tokens;
        Ok(())
    }

    /// Drops the window, and all but the first `pages` sealed pages.
    pub(super) fn keep_sealed(&mut self, pages: usize) -> Result<(), ModelError> {
        for page_idx in pages..self.sealed.len() {
            self.evict(page_idx)?;
        }
        self.sealed.truncate(pages);
        self.end = self.sealed.len() * PAGE_TOKENS;
        Ok(())
    }

    /// Copies a sealed page back to its place in the window, which a later page has overwritten.
    fn unseal(&mut self, page_idx: usize) -> Result<(), ModelError> {
        let (key, n_window) = (self.key(page_idx), self.window.len());
        let window = self.window[page_idx % n_window].as_mut_slice();
        match &self.sealed[page_idx] {
            Some(record) => window.copy_from_slice((**record).as_ref()),
            None => self.pages.copy_spilled(key, window)?,
        }
        Ok(())
    }
}

/// Returns how many of `pages` to attend to at once. Batches of pages on disk are small, so that the next ones are read
/// meanwhile.
fn batch_len(pages: &[usize], is_in_memory: impl Fn(usize) -> bool) -> usize {
    let in_memory =
        pages.iter().take(BATCH_PAGES_IN_MEMORY).take_while(|page_idx| is_in_memory(**page_idx)).count();
    in_memory.max(BATCH_PAGES).min(pages.len())
}

/// Writes one token, `[kv_heads, head_dim]`, to its row of each head.
///
/// # Errors
/// [`KvError::F16Overflow`].
fn store(
    layout: &PageLayout,
    half: &TensorLayout,
    record: &mut [u8],
    row: usize,
    token: &[f32],
) -> Result<(), KvError> {
    let (row_bytes, head_dim) = (layout.row_bytes(), layout.head_dim());
    let rows = &mut record[half.codes.clone()];
    for (head, numbers) in token.chunks_exact(head_dim).enumerate() {
        let out = &mut rows[(head * PAGE_TOKENS + row) * row_bytes..][..row_bytes];
        match layout.format() {
            PageFormat::F16 => to_f16(numbers, bytemuck::cast_slice_mut::<u8, f16>(out))?,
            _ => out.copy_from_slice(bytemuck::cast_slice(numbers)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_large_in_memory_and_small_on_disk() {
        let pages: Vec<usize> = (0..200).collect();
        assert_eq!(batch_len(&pages, |_| true), BATCH_PAGES_IN_MEMORY);
        assert_eq!(batch_len(&pages, |_| false), BATCH_PAGES);
        assert_eq!(batch_len(&pages, |page_idx| page_idx < 10), 10);
        assert_eq!(batch_len(&pages, |page_idx| page_idx < 2), BATCH_PAGES, "two of them are read");
        assert_eq!(batch_len(&pages[..3], |_| true), 3);
    }
}
