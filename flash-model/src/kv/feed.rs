//! Pages on disk, read ahead of the attention that needs them.
//!
//! Layers attend one after the other, each to all of its pages, and after the last layer comes the first one again: so
//! the order of reads is known, and a page is asked for as soon as there is room for it. Whoever attends drives this;
//! there is no thread, for room comes of nothing else.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flash_io::{BundleLayout, Reader, ShardIdx, Slot, SlotPool, Ticket};
use flash_kv::PageFile;
use parking_lot::Mutex;

use crate::ModelError;
use crate::memory::slots::{SLOT_RETURN, wait_for};

/// A page of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageKey {
    pub layer_idx: usize,
    pub page_idx: usize,
}

#[derive(Debug)]
pub(super) struct Feed {
    reader: Arc<Reader>,
    shard: ShardIdx,
    file: Arc<PageFile>,
    pool: SlotPool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What can be read, of each layer: page and place in the file.
    on_disk: Vec<Vec<(usize, usize)>>,
    /// Asked for, in the order in which it will be needed.
    queue: VecDeque<(PageKey, Ticket)>,
    /// What is asked for next: the layer, and how many of its pages were.
    next: (usize, usize),
    /// The first page that each layer attends to: where it sees a window, those before have left it.
    first: Vec<usize>,
    /// A layer that attends to its pages again before the next one does.
    again: Option<usize>,
}

impl Feed {
    pub(super) fn new(
        reader: Arc<Reader>,
        shard: ShardIdx,
        file: Arc<PageFile>,
        pool: SlotPool,
        n_layers: usize,
    ) -> Self {
        let state = State {
            on_disk: vec![Vec::new(); n_layers],
            queue: VecDeque::new(),
            next: (0, 0),
            first: vec![0; n_layers],
            again: None,
        };
        Self { reader, shard, file, pool, state: Mutex::new(state) }
    }

    /// A page can be read from its place in the file.
    pub(super) fn add(&self, key: PageKey, place: usize) {
        self.state.lock().on_disk[key.layer_idx].push((key.page_idx, place));
    }

    /// A page cannot be read any more.
    pub(super) fn remove(&self, key: PageKey) {
        let state = &mut *self.state.lock();
        state.queue.retain(|(queued, _)| *queued != key);
        let pages = &mut state.on_disk[key.layer_idx];
        let Some(at) = pages.iter().position(|(page_idx, _)| *page_idx == key.page_idx) else { return };
        pages.remove(at);
        if state.next.0 == key.layer_idx && state.next.1 > at {
            state.next.1 -= 1;
        }
    }

    /// A layer attends to its pages from `first` on, and maybe again before the next layer does.
    pub(super) fn expect_reads(&self, layer_idx: usize, first: usize, is_again: bool) {
        let state = &mut *self.state.lock();
        state.first[layer_idx] = first;
        state.again = is_again.then_some(layer_idx);
    }

    /// Asks for what comes next, as far as there is room.
    pub(super) fn fill(&self) {
        self.state.lock().fill(self);
    }

    /// The record of a page that is on disk, and how long it was waited for.
    pub(super) fn take(&self, key: PageKey) -> Result<(Slot, Duration), ModelError> {
        let ticket = {
            let state = &mut *self.state.lock();
            if state.queue.front().is_none_or(|(queued, _)| *queued != key) {
                state.seek(key, self)?;
            }
            let (_, ticket) = state.queue.pop_front().expect("sought");
            state.fill(self);
            ticket
        };
        let begin = Instant::now();
        let is_late = !ticket.is_done();
        let slot = ticket.wait()?;
        Ok((slot, if is_late { begin.elapsed() } else { Duration::ZERO }))
    }
}

impl State {
    /// Begins anew with a page that was not expected.
    fn seek(&mut self, key: PageKey, feed: &Feed) -> Result<(), ModelError> {
        let found = self.queue.iter().position(|(queued, _)| *queued == key);
        self.queue.drain(..found.unwrap_or(self.queue.len()));
        if found.is_some() {
            return Ok(());
        }
        let pages = &self.on_disk[key.layer_idx];
        let at = pages.iter().position(|(page_idx, _)| *page_idx == key.page_idx).expect("a page on disk");
        self.next = (key.layer_idx, at);
        // What was given up may still be under way.
        let held =
            || ModelError::SlotHeld { bundle: format!("page {} of layer {}", key.page_idx, key.layer_idx) };
        let slot = wait_for(&feed.reader, SLOT_RETURN, |limit| feed.pool.acquire_within(limit))?;
        let slot = slot.ok_or_else(held)?;
        self.submit(feed, slot);
        Ok(())
    }

    fn fill(&mut self, feed: &Feed) {
        while self.has_next() {
            let Some(slot) = feed.pool.try_acquire() else { return };
            self.submit(feed, slot);
        }
    }

    /// Moves on to the next layer that has pages, if none is left of this one.
    fn has_next(&mut self) -> bool {
        let n_layers = self.on_disk.len();
        for _ in 0..=n_layers {
            let (layer_idx, at) = self.next;
            let pages = &self.on_disk[layer_idx];
            let start = pages.partition_point(|(page_idx, _)| *page_idx < self.first[layer_idx]);
            self.next.1 = at.max(start);
            if self.next.1 < pages.len() {
                return true;
            }
            let next_layer =
                if self.again == Some(layer_idx) { layer_idx } else { (layer_idx + 1) % n_layers };
            self.next = (next_layer, 0);
        }
        false
    }

    fn submit(&mut self, feed: &Feed, slot: Slot) {
        let (layer_idx, at) = self.next;
        let (page_idx, place) = self.on_disk[layer_idx][at];
        let span = feed.file.span(place as u32, layer_idx as u32);
        // In order of time: those that are not read yet are the last.
        let n_waiting = self.queue.iter().rev().take_while(|(_, ticket)| !ticket.is_done()).count();
        let waiting_bytes = n_waiting as u64 * slot.len() as u64;
        let bundle = Arc::new(BundleLayout::new(&[(feed.shard, span)]));
        let ticket = feed.reader.submit_behind(waiting_bytes, &bundle, slot);
        self.queue.push_back((PageKey { layer_idx, page_idx }, ticket));
        self.next.1 += 1;
    }
}
