//! Pages of all layers: what their memory, their file and their tokens have in common.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use flash_io::{Budget, Reader, ShardIdx, Slot, SlotPool};
use flash_kv::{
    Chain, Expected, Identity, KvError, PAGE_TOKENS, PageFile, PageLayout, RecordHead, Writer, WriterConfig,
    Written, seal, verify,
};
use parking_lot::Mutex;

use super::KvStats;
use super::feed::{Feed, PageKey};
use super::plan::PagedPlan;
use super::traffic::PageTraffic;
use super::twins::Twins;
use crate::ModelError;

/// A sealed page in memory.
#[derive(Debug)]
pub(super) struct Record(Slot);

impl AsRef<[u8]> for Record {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// What the pages of all layers share.
#[derive(Debug)]
pub(crate) struct Pages {
    pub(super) plan: PagedPlan,
    pub(super) identity: Identity,
    pub(super) sealed: PageLayout,
    pub(super) window: PageLayout,
    records: SlotPool,
    disk: Option<OnDisk>,
    /// There if pages are to be shared, and are not stored as the window holds them.
    twins: Option<Twins>,
    context: Mutex<Context>,
    /// Sealed, on the way to the disk, and still in memory; the oldest first.
    unwritten: Mutex<VecDeque<Unwritten>>,
    /// The first failure of the pass: what is computed from then on is not to be used.
    failure: Mutex<Option<ModelError>>,
    traffic: PageTraffic,
}

/// The pages that memory has no room for.
#[derive(Debug)]
struct OnDisk {
    writer: Writer,
    feed: Feed,
    /// Whether pages are written, too, that stay in memory.
    is_kept: bool,
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        // What was sealed and not saved is recovered: the more of it there is the better.
        if self.is_kept
            && let Err(error) = self.writer.flush()
        {
            tracing::debug!(%error, "pages are lost");
        }
    }
}

/// The tokens that the pages are of.
#[derive(Debug, Default)]
struct Context {
    token_ids: Vec<u32>,
    /// What names the pages before each whole page, and those before the next one.
    chains: Vec<Chain>,
}

#[derive(Debug)]
struct Unwritten {
    key: PageKey,
    record: Arc<Record>,
    written: Written,
}

/// A sealed page, to be looked at.
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

/// The file of a cache, and how it is read.
#[derive(Debug)]
pub(crate) struct PageSource {
    pub file: Arc<PageFile>,
    pub reader: Arc<Reader>,
    pub shard: ShardIdx,
    /// Whether it outlives the cache, so that all of its pages are written.
    pub is_kept: bool,
}

impl Pages {
    pub(super) fn new(
        plan: PagedPlan,
        identity: Identity,
        source: Option<PageSource>,
        twins: Option<Twins>,
        traffic: PageTraffic,
        budget: &Budget,
    ) -> Result<Self, ModelError> {
        let (sealed, window) = (plan.geometry.layout(), plan.geometry.window_layout());
        let records = SlotPool::new(budget, sealed.record_bytes(), plan.n_records())?;
        let disk = source.map(|PageSource { file, reader, shard, is_kept }| {
            let config = WriterConfig { queue_len: plan.unwritten_records(), sync_every_page: is_kept };
            let writer = Writer::new(Arc::clone(&file), &config)?;
            let slots = SlotPool::new(budget, sealed.record_bytes(), plan.feed_pages)?;
            let feed = Feed::new(reader, shard, file, slots, plan.geometry.n_layers as usize);
            Ok::<_, ModelError>(OnDisk { writer, feed, is_kept })
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

    /// These tokens come behind the first `held_tokens` of those before.
    pub(super) fn append_tokens(&self, held_tokens: usize, token_ids: &[u32]) {
        let context = &mut *self.context.lock();
        context.chains.truncate(held_tokens / PAGE_TOKENS + 1);
        context.token_ids.truncate(held_tokens);
        context.token_ids.extend_from_slice(token_ids);
        let (pages, _) = context.token_ids.as_chunks::<PAGE_TOKENS>();
        for page in &pages[context.chains.len() - 1..] {
            let chain = context.chains.last().expect("that of no page").next(page);
            context.chains.push(chain);
        }
    }

    /// A page was sealed, since `begin`.
    pub(super) fn record_sealing(&self, begin: Instant) {
        self.traffic.add_sealing(begin.elapsed());
    }

    /// How many tokens there will be behind this pass.
    pub(super) fn n_tokens(&self) -> usize {
        self.context.lock().token_ids.len()
    }

    /// Takes a sealed page, whose record `fill` writes, and keeps it in memory if it may stay there.
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
        let place = self.plan.retention.place(key.page_idx);
        seal(slot.as_mut_slice(), &self.head(key, place, &self.sealed));
        let record = Arc::new(Record(slot));
        let written = writer.submit(place as u32, key.layer_idx as u32, Arc::clone(&record))?;
        if stays {
            return Ok(Some(record));
        }
        self.unwritten.lock().push_back(Unwritten { key, record, written });
        Ok(None)
    }

    /// Takes a sealed page that is in the file, and reads it if it may stay in memory.
    pub(super) fn load_sealed(&self, key: PageKey, stays: bool) -> Result<Option<Arc<Record>>, ModelError> {
        let OnDisk { writer, feed, .. } = self.disk.as_ref().expect("a file has the page");
        let place = self.plan.retention.place(key.page_idx);
        if !stays {
            feed.add(key, place);
            return Ok(None);
        }
        let mut slot = self.free_record()?;
        let head = writer.file().read(place as u32, key.layer_idx as u32, slot.as_mut_slice())?;
        self.check_prefix(&head, key)?;
        Ok(Some(Arc::new(Record(slot))))
    }

    /// Copies the record of a sealed page that does not stay in memory.
    pub(super) fn copy_spilled(&self, key: PageKey, out: &mut [u8]) -> Result<(), KvError> {
        if let Some(found) = self.unwritten.lock().iter().find(|unwritten| unwritten.key == key) {
            out.copy_from_slice((*found.record).as_ref());
            return Ok(());
        }
        let OnDisk { writer, .. } = self.disk.as_ref().expect("what is not in memory is on disk");
        let place = self.plan.retention.place(key.page_idx);
        writer.file().read(place as u32, key.layer_idx as u32, out).map(drop)
    }

    /// What the record of a page says about it, at its place in a file, in the format of a layout.
    pub(super) fn head(&self, key: PageKey, place: usize, layout: &PageLayout) -> RecordHead {
        let context = self.context.lock();
        let (pages, _) = context.token_ids.as_chunks();
        RecordHead {
            format: layout.format(),
            page_idx: place as u32,
            layer_idx: key.layer_idx as u32,
            before: context.chains[key.page_idx],
            token_ids: pages[key.page_idx],
        }
    }

    /// A page of this layer leaves the window: what it was there is remembered, if pages are to be shared.
    pub(super) fn record_twin(&self, key: PageKey, window: &mut [u8]) {
        if let Some(twins) = &self.twins {
            twins.add(&self.head(key, key.page_idx, &self.window), window);
        }
    }

    /// Copies the record of a page that has left the window as it was there.
    pub(super) fn copy_twin(&self, key: PageKey, out: &mut [u8]) -> Result<(), KvError> {
        let twins = self.twins.as_ref().expect("pages are shared");
        twins.copy(key.page_idx as u32, key.layer_idx as u32, out)
    }

    /// A file that outlives the cache keeps no more than its first `pages` pages: what comes next are others.
    pub(super) fn truncate_file(&self, pages: usize) -> Result<(), ModelError> {
        if let Some(OnDisk { writer, is_kept: true, .. }) = &self.disk {
            // What was submitted would be written behind the cut.
            writer.flush()?;
            writer.file().truncate(pages)?;
        }
        Ok(())
    }

    /// Waits until everything that was sealed is written.
    pub(super) fn flush(&self) -> Result<(), ModelError> {
        self.disk.as_ref().map_or(Ok(()), |disk| Ok(disk.writer.flush()?))
    }

    /// Memory for a record; waits for one to be written if there is none.
    fn free_record(&self) -> Result<Slot, ModelError> {
        loop {
            self.sweep();
            if let Some(slot) = self.records.try_acquire() {
                return Ok(slot);
            }
            let oldest = self.unwritten.lock().front().map(|unwritten| unwritten.written.clone());
            match oldest {
                Some(written) => written.wait()?,
                // The writer lets go of a record a moment after it is written.
                None => std::thread::yield_now(),
            }
        }
    }

    /// Lets go of what was written: from now on it is read.
    pub(super) fn sweep(&self) {
        let Some(OnDisk { feed, .. }) = &self.disk else { return };
        let unwritten = &mut *self.unwritten.lock();
        while unwritten.front().is_some_and(|unwritten| unwritten.written.is_done()) {
            let Some(Unwritten { key, .. }) = unwritten.pop_front() else { return };
            feed.add(key, self.plan.retention.place(key.page_idx));
        }
    }

    /// A page that does not stay in memory: from there if it is not written yet, or read.
    pub(super) fn fetch_spilled(&self, key: PageKey) -> Result<SealedPage, ModelError> {
        let unwritten = self.unwritten.lock();
        if let Some(found) = unwritten.iter().find(|unwritten| unwritten.key == key) {
            return Ok(SealedPage::InMemory(Arc::clone(&found.record)));
        }
        drop(unwritten);
        let OnDisk { writer, feed, .. } = self.disk.as_ref().expect("what is not in memory is on disk");
        let (slot, waited) = feed.take(key)?;
        self.traffic.add(slot.len(), waited);
        let place = self.plan.retention.place(key.page_idx);
        let path = writer.file().path();
        let (format, page_idx, layer_idx) = (self.sealed.format(), place as u32, key.layer_idx as u32);
        let head = verify(&slot, &Expected { path, format, page_idx, layer_idx })?;
        self.check_prefix(&head, key)?;
        Ok(SealedPage::Read(slot))
    }

    /// Whether a record of the file is of the tokens that were passed.
    fn check_prefix(&self, head: &RecordHead, key: PageKey) -> Result<(), ModelError> {
        if head.before == self.context.lock().chains[key.page_idx] {
            return Ok(());
        }
        let OnDisk { writer, .. } = self.disk.as_ref().expect("what was read is on disk");
        Err(ModelError::StalePage {
            path: writer.file().path().to_owned(),
            page_idx: head.page_idx as usize,
            layer_idx: key.layer_idx,
        })
    }

    /// A page is given up.
    pub(super) fn evict(&self, key: PageKey) -> Result<(), ModelError> {
        let Some(OnDisk { feed, .. }) = &self.disk else { return Ok(()) };
        // Its place may be written anew: after it was, not before.
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

    /// Asks for the pages that come next.
    pub(super) fn fill(&self) {
        if let Some(OnDisk { feed, .. }) = &self.disk {
            feed.fill();
        }
    }

    /// A layer attends to its pages from `first` on, and maybe again before the next layer does.
    pub(super) fn expect_reads(&self, layer_idx: usize, first: usize, is_again: bool) {
        if let Some(OnDisk { feed, .. }) = &self.disk {
            feed.expect_reads(layer_idx, first, is_again);
        }
    }

    /// Something went wrong where nobody can be told: whoever asks next is.
    pub(crate) fn fail(&self, error: ModelError) {
        tracing::debug!(%error, "a page failed");
        self.failure.lock().get_or_insert(error);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failure.lock().is_some()
    }

    /// What went wrong since this was last asked.
    pub(super) fn take_failure(&self) -> Option<ModelError> {
        self.failure.lock().take()
    }

    /// What was done so far.
    pub(super) fn stats(&self) -> KvStats {
        KvStats {
            written_bytes: self.disk.as_ref().map_or(0, |disk| disk.writer.stats().written_bytes),
            read_bytes: self.traffic.read_bytes(),
            waited: self.traffic.waited(),
            sealing: self.traffic.sealing(),
        }
    }
}
