//! Prefetching of KV pages on disk.
//!
//! Layers attend one after the other, each to all of its pages, and the first layer follows the last. The order of
//! reads is therefore known, and pages are requested in that order as slots become free. No thread is needed: slots
//! only become free in calls of the attending layer, which drive the reads.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flash_io::{BundleLayout, Reader, ShardIdx, Slot, SlotPool, Ticket};
use flash_kv::PageFile;
use parking_lot::Mutex;

use crate::ModelError;
use crate::memory::slots::{SLOT_RETURN, wait_for};

/// The index of a page of one layer.
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
    /// Pages on disk of each layer: page index and place in the file.
    on_disk: Vec<Vec<(usize, usize)>>,
    /// Requested pages, in the order of use.
    queue: VecDeque<(PageKey, Ticket)>,
    /// The next page to request: the layer, and the index in its `on_disk`.
    next: (usize, usize),
    /// The first page that each layer attends to; earlier pages are outside its sliding window.
    first: Vec<usize>,
    /// A layer that attends to its pages once more before the next layer does.
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

    /// Adds a page that has been written at `place` of the file.
    pub(super) fn add(&self, key: PageKey, place: usize) {
        self.state.lock().on_disk[key.layer_idx].push((key.page_idx, place));
    }

    /// Removes a page, and cancels its read.
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

    /// Sets the pages that a layer will attend to, from `first` on, and whether it does so again before the next layer.
    pub(super) fn expect_reads(&self, layer_idx: usize, first: usize, is_again: bool) {
        let state = &mut *self.state.lock();
        state.first[layer_idx] = first;
        state.again = is_again.then_some(layer_idx);
    }

    /// Requests the next pages while slots are free.
    pub(super) fn fill(&self) {
        self.state.lock().fill(self);
    }

    /// Returns the record of a page on disk, and the time spent waiting for it.
    pub(super) fn take(&self, key: PageKey) -> Result<(Slot, Duration), ModelError> {
        let ticket = {
            let state = &mut *self.state.lock();
            if state.queue.front().is_none_or(|(queued, _)| *queued != key) {
                state.seek(key, self)?;
            }
            let (_, ticket) = state.queue.pop_front().expect("seek queued the page");
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
    /// Makes `key` the front of the queue. If it was not requested, the queue is dropped and restarts from `key`.
    fn seek(&mut self, key: PageKey, feed: &Feed) -> Result<(), ModelError> {
        let found = self.queue.iter().position(|(queued, _)| *queued == key);
        self.queue.drain(..found.unwrap_or(self.queue.len()));
        if found.is_some() {
            return Ok(());
        }
        let pages = &self.on_disk[key.layer_idx];
        let at =
            pages.iter().position(|(page_idx, _)| *page_idx == key.page_idx).expect("the page is on disk");
        self.next = (key.layer_idx, at);
        // Slots of dropped requests return only when their reads have ended.
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

    /// Advances `next` to a layer with unrequested pages, and returns whether there is one.
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
        // Pages are requested in order, so unfinished reads are at the end of the queue.
        let n_waiting = self.queue.iter().rev().take_while(|(_, ticket)| !ticket.is_done()).count();
        let waiting_bytes = n_waiting as u64 * slot.len() as u64;
        let bundle = Arc::new(BundleLayout::new(&[(feed.shard, span)]));
        let ticket = feed.reader.submit_with_backlog(waiting_bytes, &bundle, slot);
        self.queue.push_back((PageKey { layer_idx, page_idx }, ticket));
        self.next.1 += 1;
    }
}
