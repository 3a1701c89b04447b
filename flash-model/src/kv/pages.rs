//! The state shared by the pages of all layers: memory, file and token ids.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use flash_io::{Budget, Reader, ShardIdx, Slot, SlotPool};
use flash_kv::{
    Chain, ExpectedRecord, Identity, KvError, PAGE_TOKENS, PageFile, PageLayout, RecordHeader, WriteHandle,
    Writer, WriterConfig, seal, verify,
};
use parking_lot::Mutex;

use super::feed::{Feed, PageKey};
use super::plan::PagedPlan;
use super::traffic::PageCounters;
use super::twins::TwinRegion;
use crate::ModelError;

/// The record of a sealed page, in memory.
#[derive(Debug)]
pub(super) struct Record(Slot);

impl AsRef<[u8]> for Record {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The page store of a cache, shared by all layers.
#[derive(Debug)]
pub(crate) struct Pages {
    pub(super) plan: PagedPlan,
    pub(super) identity: Identity,
    pub(super) sealed: PageLayout,
    pub(super) window: PageLayout,
    records: SlotPool,
    disk: Option<OnDisk>,
    /// Present if prefixes are shared and sealed pages are stored in another format than the window's.
    twins: Option<TwinRegion>,
    context: Mutex<Context>,
    /// Sealed pages that are queued for writing and still in memory, oldest first.
    unwritten: Mutex<VecDeque<Unwritten>>,
    /// The first error of the pass; everything computed after it is invalid.
    failure: Mutex<Option<ModelError>>,
    traffic: PageCounters,
}

/// The pages on disk.
#[derive(Debug)]
struct OnDisk {
    writer: Writer,
    feed: Feed,
    first_place: usize,
    /// Whether pages that stay in memory are also written.
    is_kept: bool,
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        // Pages sealed since the last save can be recovered, so as many as possible are written.
        if self.is_kept
            && let Err(error) = self.writer.flush()
        {
            tracing::debug!(%error, "unsaved pages cannot be written");
        }
    }
}

/// The token ids of all pages.
#[derive(Debug, Default)]
struct Context {
    token_ids: Vec<u32>,
    /// Hashes of the prefixes before each whole page and before the next one.
    chains: Vec<Chain>,
}

#[derive(Debug)]
struct Unwritten {
    key: PageKey,
    record: Arc<Record>,
    written: WriteHandle,
}

/// A sealed page, from memory or read from disk.
#[derive(Debug)]
pub(super) enum SealedPage {
    InMemory(Arc<Record>),
    Read(Slot),
}

impl AsRef<[u8]> for SealedPage {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::InMemory(record) => (**record).as_ref(),
            Self::Read(slot) => slot,
        }
    }
}

/// The page file of a cache, and its reader.
#[derive(Debug, Clone)]
pub(crate) struct PageSource {
    pub file: Arc<PageFile>,
    pub reader: Arc<Reader>,
    pub shard: ShardIdx,
    /// First place in the file for pages of this cache.
    pub first_place: usize,
    /// Whether the file outlives the cache, in which case every page is written.
    pub is_kept: bool,
}

impl Pages {
    pub(super) fn new(
        plan: PagedPlan,
        identity: Identity,
        source: Option<PageSource>,
        twins: Option<TwinRegion>,
        traffic: PageCounters,
        budget: &Budget,
    ) -> Result<Self, ModelError> {
        let (sealed, window) = (plan.geometry.layout(), plan.geometry.window_layout());
        let records = SlotPool::new(budget, sealed.record_bytes(), plan.n_records())?;
        let disk = source.map(|PageSource { file, reader, shard, first_place, is_kept }| {
            let config = WriterConfig { queue_len: plan.unwritten_records(), sync_every_page: is_kept };
            let writer = Writer::new(Arc::clone(&file), &config)?;
            let slots = SlotPool::new(budget, sealed.record_bytes(), plan.feed_pages)?;
            let feed = Feed::new(reader, shard, file, slots, plan.geometry.n_layers as usize);
            Ok::<_, ModelError>(OnDisk { writer, feed, first_place, is_kept })
        });
        let context = Context { token_ids: Vec::new(), chains: vec![Chain::root(&identity)] };
        Ok(Self {
            plan,
            identity,
            sealed,
            window,
            records,
            disk: disk.transpose()?,
            twins,
            context: Mutex::new(context),
            unwritten: Mutex::default(),
            failure: Mutex::default(),
            traffic,
        })
    }

    /// Truncates the context to `held_tokens` and appends `token_ids`.
    pub(super) fn append_tokens(&self, held_tokens: usize, token_ids: &[u32]) {
        let context = &mut *self.context.lock();
        context.chains.truncate(held_tokens / PAGE_TOKENS + 1);
        context.token_ids.truncate(held_tokens);
        context.token_ids.extend_from_slice(token_ids);
        let (pages, _) = context.token_ids.as_chunks::<PAGE_TOKENS>();
        for page in &pages[context.chains.len() - 1..] {
            let chain = context.chains.last().expect("the root hash is always there").next(page);
            context.chains.push(chain);
        }
    }

    /// Returns the place of a page in the file.
    fn place(&self, page_idx: usize) -> usize {
        self.disk.as_ref().map_or(0, |disk| disk.first_place) + self.plan.retention.place(page_idx)
    }

    /// Adds the time since `begin` to the time spent on sealing.
    pub(super) fn record_sealing(&self, begin: Instant) {
        self.traffic.add_sealing(begin.elapsed());
    }

    /// Returns the number of tokens, including the pass in progress.
    pub(super) fn n_tokens(&self) -> usize {
        self.context.lock().token_ids.len()
    }

    /// Inserts a sealed page, whose record is written by `fill`. Returns the record if the page stays in memory.
    pub(super) fn insert_sealed(
        &self,
        key: PageKey,
        stays: bool,
        fill: impl FnOnce(&mut [u8]) -> Result<(), ModelError>,
    ) -> Result<Option<Arc<Record>>, ModelError> {
        let mut slot = self.free_record()?;
        fill(slot.as_mut_slice())?;
        let Some(OnDisk { writer, is_kept, .. }) = &self.disk else {
            return Ok(Some(Arc::new(Record(slot))));
        };
        if stays && !is_kept {
            return Ok(Some(Arc::new(Record(slot))));
        }
        let place = self.place(key.page_idx);
        seal(slot.as_mut_slice(), &self.head(key, place, &self.sealed));
        let record = Arc::new(Record(slot));
        let written = writer.submit(place as u32, key.layer_idx as u32, Arc::clone(&record))?;
        self.traffic.add_written(self.sealed.record_bytes());
        if stays {
            return Ok(Some(record));
        }
        self.unwritten.lock().push_back(Unwritten { key, record, written });
        Ok(None)
    }

    /// Inserts a sealed page that is already in the file, and reads it if it is to stay in memory.
    pub(super) fn load_sealed(&self, key: PageKey, stays: bool) -> Result<Option<Arc<Record>>, ModelError> {
        if !stays {
            self.add_from_file(key);
            return Ok(None);
        }
        let OnDisk { writer, .. } = self.disk.as_ref().expect("the page is in a file");
        let place = self.place(key.page_idx);
        let mut slot = self.free_record()?;
        let head = writer.file().read(place as u32, key.layer_idx as u32, slot.as_mut_slice())?;
        self.check_prefix(&head, key)?;
        Ok(Some(Arc::new(Record(slot))))
    }

    /// Adds a sealed page that is already in the file, and stays there.
    pub(super) fn add_from_file(&self, key: PageKey) {
        let OnDisk { feed, .. } = self.disk.as_ref().expect("the page is in a file");
        feed.add(key, self.place(key.page_idx));
    }

    /// Returns the record of a sealed page that stays in memory, as `fill` writes it.
    pub(super) fn unpark_sealed(
        &self,
        fill: impl FnOnce(&mut [u8]) -> Result<(), ModelError>,
    ) -> Result<Arc<Record>, ModelError> {
        let mut slot = self.free_record()?;
        fill(slot.as_mut_slice())?;
        Ok(Arc::new(Record(slot)))
    }

    /// Copies the record of a sealed page that is not held in memory.
    pub(super) fn copy_spilled(&self, key: PageKey, out: &mut [u8]) -> Result<(), KvError> {
        if let Some(found) = self.unwritten.lock().iter().find(|unwritten| unwritten.key == key) {
            out.copy_from_slice((*found.record).as_ref());
            return Ok(());
        }
        let OnDisk { writer, .. } = self.disk.as_ref().expect("pages that are not in memory are on disk");
        let place = self.place(key.page_idx);
        writer.file().read(place as u32, key.layer_idx as u32, out).map(drop)
    }

    /// Returns the header of a page's record at `place` of a file, in the format of `layout`.
    pub(super) fn head(&self, key: PageKey, place: usize, layout: &PageLayout) -> RecordHeader {
        let context = self.context.lock();
        let (pages, _) = context.token_ids.as_chunks();
        RecordHeader {
            format: layout.format(),
            page_idx: place as u32,
            layer_idx: key.layer_idx as u32,
            before: context.chains[key.page_idx],
            token_ids: pages[key.page_idx],
        }
    }

    /// Stores a page that leaves the window in the window's format, if prefixes are shared.
    pub(super) fn record_twin(&self, key: PageKey, window: &mut [u8]) {
        if let Some(TwinRegion { file, first_place }) = &self.twins {
            file.add(&self.head(key, first_place + key.page_idx, &self.window), window);
        }
    }

    /// Copies the record of a page that has left the window, in the window's format. Its header has another place.
    pub(super) fn copy_twin(&self, key: PageKey, out: &mut [u8]) -> Result<(), KvError> {
        let TwinRegion { file, first_place } = self.twins.as_ref().expect("twins are kept");
        file.copy(first_place + key.page_idx, key.layer_idx, out)
    }

    /// Truncates a file that outlives the cache to its first `pages` pages.
    pub(super) fn truncate_file(&self, pages: usize) -> Result<(), ModelError> {
        if let Some(OnDisk { writer, is_kept: true, .. }) = &self.disk {
            // Pages that are still queued would be written after the truncation.
            writer.flush()?;
            writer.file().truncate(pages)?;
        }
        Ok(())
    }

    /// Waits until all sealed pages are written.
    pub(super) fn flush(&self) -> Result<(), ModelError> {
        self.disk.as_ref().map_or(Ok(()), |disk| Ok(disk.writer.flush()?))
    }

    /// Returns memory for a record, after waiting for a queued write if none is free.
    fn free_record(&self) -> Result<Slot, ModelError> {
        loop {
            self.sweep();
            if let Some(slot) = self.records.try_acquire() {
                return Ok(slot);
            }
            let oldest = self.unwritten.lock().front().map(|unwritten| unwritten.written.clone());
            match oldest {
                Some(written) => written.wait()?,
                // The writer drops a record shortly after it is written.
                None => std::thread::yield_now(),
            }
        }
    }

    /// Drops records that have been written. Their pages are read from disk from now on.
    pub(super) fn sweep(&self) {
        let Some(OnDisk { feed, .. }) = &self.disk else { return };
        let unwritten = &mut *self.unwritten.lock();
        while unwritten.front().is_some_and(|unwritten| unwritten.written.is_done()) {
            let Some(Unwritten { key, .. }) = unwritten.pop_front() else { return };
            feed.add(key, self.place(key.page_idx));
        }
    }

    /// Returns a page that does not stay in memory: from the write queue, or read from disk.
    pub(super) fn fetch_spilled(&self, key: PageKey) -> Result<SealedPage, ModelError> {
        let unwritten = self.unwritten.lock();
        if let Some(found) = unwritten.iter().find(|unwritten| unwritten.key == key) {
            return Ok(SealedPage::InMemory(Arc::clone(&found.record)));
        }
        drop(unwritten);
        let OnDisk { writer, feed, .. } =
            self.disk.as_ref().expect("pages that are not in memory are on disk");
        let (slot, waited) = feed.take(key)?;
        self.traffic.add(slot.len(), waited);
        let place = self.place(key.page_idx);
        let path = writer.file().path();
        let (format, page_idx, layer_idx) = (self.sealed.format(), place as u32, key.layer_idx as u32);
        let head = verify(&slot, &ExpectedRecord { path, format, page_idx, layer_idx })?;
        self.check_prefix(&head, key)?;
        Ok(SealedPage::Read(slot))
    }

    /// Checks that a record of the file belongs to the tokens of this context.
    fn check_prefix(&self, head: &RecordHeader, key: PageKey) -> Result<(), ModelError> {
        if head.before == self.context.lock().chains[key.page_idx] {
            return Ok(());
        }
        let OnDisk { writer, .. } = self.disk.as_ref().expect("the record was read from disk");
        Err(ModelError::StalePage {
            path: writer.file().path().to_owned(),
            page_idx: head.page_idx as usize,
            layer_idx: key.layer_idx,
        })
    }

    /// Evicts a page.
    pub(super) fn evict(&self, key: PageKey) -> Result<(), ModelError> {
        let Some(OnDisk { feed, .. }) = &self.disk else { return Ok(()) };
        // A new page may take its place in the file, so the old one has to be written first.
        let unwritten = self.unwritten.lock();
        let late = unwritten.iter().find(|unwritten| unwritten.key == key).map(|found| found.written.clone());
        drop(unwritten);
        if let Some(written) = late {
            written.wait()?;
            self.sweep();
        }
        feed.remove(key);
        Ok(())
    }

    /// Requests the next pages.
    pub(super) fn fill(&self) {
        if let Some(OnDisk { feed, .. }) = &self.disk {
            feed.fill();
        }
    }

    /// Sets the pages that a layer will attend to, from `first` on, and whether it does so again before the next layer.
    pub(super) fn expect_reads(&self, layer_idx: usize, first: usize, is_again: bool) {
        if let Some(OnDisk { feed, .. }) = &self.disk {
            feed.expect_reads(layer_idx, first, is_again);
        }
    }

    /// Records an error inside a node of the graph, which cannot return it. The end of the pass reports it.
    pub(crate) fn fail(&self, error: ModelError) {
        tracing::debug!(%error, "a page failed");
        self.failure.lock().get_or_insert(error);
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn has_failed(&self) -> bool {
        self.failure.lock().is_some()
    }

    /// Takes the first error of the pass.
    pub(super) fn take_failure(&self) -> Option<ModelError> {
        self.failure.lock().take()
    }
}
