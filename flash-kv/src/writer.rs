//! Writing behind the computation.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Condvar, Mutex};

use crate::{KvError, PageFile};

/// How a [`Writer`] works.
#[derive(Debug, Clone)]
pub struct WriterConfig {
    /// Records that may wait; the next one waits with whoever submits it, so that a prefill cannot outrun the disk, nor
    /// memory fill with what is to be written.
    pub queue_len: usize,
    /// Whether a page is synced when all its layers are written: for contexts that are to outlive a crash.
    pub sync_every_page: bool,
}

impl Default for WriterConfig {
    fn default() -> Self {
        Self { queue_len: 8, sync_every_page: false }
    }
}

/// What a [`Writer`] has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriterStats {
    /// Records written.
    pub records: u64,
    /// Their bytes.
    pub written_bytes: u64,
    /// Syncs of whole pages.
    pub syncs: u64,
    /// The time that writes and syncs took.
    pub busy: Duration,
}

/// A thread that writes sealed records to a file, in the order in which they are submitted.
///
/// Dropping it ends it with the record that it is writing; what waits is not written. [`flush`](Self::flush) before.
pub struct Writer {
    shared: Arc<Shared>,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// A record on its way to the file.
#[derive(Debug, Clone)]
pub struct Written {
    shared: Arc<Shared>,
    done: Arc<AtomicBool>,
}

struct Job {
    page_idx: u32,
    layer_idx: u32,
    record: Arc<dyn AsRef<[u8]> + Send + Sync>,
    done: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Shared {
    file: Arc<PageFile>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    submitted: u64,
    /// Nothing more will be written: the writer was dropped, or the file has failed.
    closed: bool,
    stats: WriterStats,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`KvError::Io`] if the system gives none.
    pub fn new(file: Arc<PageFile>, config: &WriterConfig) -> Result<Self, KvError> {
        let (jobs, queue) = crossbeam_channel::bounded(config.queue_len);
        let shared = Arc::new(Shared { file, progress: Mutex::default(), changed: Condvar::new() });
        let closing = Closing(Arc::clone(&shared));
        let sync_every_page = config.sync_every_page;
        let thread = thread::Builder::new().name("kv-writer".to_owned());
        let started = thread.spawn(move || {
            let closing = closing;
            closing.0.write_all(&queue, sync_every_page);
        });
        let thread = started.map_err(KvError::io(shared.file.path(), "start a thread that writes"))?;
        Ok(Self { shared, jobs: Some(jobs), thread: Some(thread) })
    }

    /// The file that is written.
    pub fn file(&self) -> &Arc<PageFile> {
        &self.shared.file
    }

    /// Hands over a sealed record; waits for room in the queue.
    ///
    /// # Errors
    /// The first failure of the file, or [`KvError::WriterClosed`] if the thread has ended for another reason.
    ///
    /// # Panics
    /// If the record is not as long as one is, or there is no such layer.
    pub fn submit<R>(&self, page_idx: u32, layer_idx: u32, record: Arc<R>) -> Result<Written, KvError>
    where
        R: AsRef<[u8]> + Send + Sync + 'static,
    {
        let file = &self.shared.file;
        assert_eq!((*record).as_ref().len(), file.layout().record_bytes(), "length of a record");
        assert!(layer_idx < file.identity().geometry.n_layers, "there is no layer {layer_idx}");
        let done = Arc::new(AtomicBool::new(false));
        let written = Written { shared: Arc::clone(&self.shared), done: Arc::clone(&done) };
        self.shared.progress.lock().submitted += 1;
        let jobs = self.jobs.as_ref().expect("the queue is there until the writer is dropped");
        match jobs.send(Job { page_idx, layer_idx, record, done }) {
            Ok(()) => Ok(written),
            Err(_) => Err(self.shared.refusal()),
        }
    }

    /// Waits until everything submitted is written. That it outlives a crash is what [`PageFile::sync`] sees to.
    ///
    /// # Errors
    /// The first failure of the file, or [`KvError::WriterClosed`] if the thread has ended for another reason.
    pub fn flush(&self) -> Result<(), KvError> {
        let mut progress = self.shared.progress.lock();
        while progress.stats.records < progress.submitted && !progress.closed {
            self.shared.changed.wait(&mut progress);
        }
        let all = progress.stats.records == progress.submitted;
        drop(progress);
        if all { self.shared.file.check() } else { Err(self.shared.refusal()) }
    }

    /// What was done so far.
    pub fn stats(&self) -> WriterStats {
        self.shared.progress.lock().stats
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("path", &self.shared.file.path()).finish_non_exhaustive()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.close();
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was one of `as_ref`, and all who waited were told.
            let _ = thread.join();
        }
    }
}

impl Written {
    /// Whether the record can be read from the file.
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Waits until the record can be read from the file.
    ///
    /// # Errors
    /// The first failure of the file, or [`KvError::WriterClosed`] if the writer was dropped before.
    pub fn wait(&self) -> Result<(), KvError> {
        let mut progress = self.shared.progress.lock();
        while !self.is_done() && !progress.closed {
            self.shared.changed.wait(&mut progress);
        }
        drop(progress);
        if self.is_done() { Ok(()) } else { Err(self.shared.refusal()) }
    }
}

impl Shared {
    /// Why something was not written.
    fn refusal(&self) -> KvError {
        let progress = self.progress.lock();
        let unwritten_records = progress.submitted - progress.stats.records;
        drop(progress);
        let closed = KvError::WriterClosed { path: self.file.path().to_owned(), unwritten_records };
        self.file.check().err().unwrap_or(closed)
    }

    fn close(&self) {
        self.progress.lock().closed = true;
        self.changed.notify_all();
    }

    /// Writes what comes until the writer is dropped or the file fails.
    fn write_all(&self, queue: &Receiver<Job>, sync_every_page: bool) {
        let n_layers = self.file.identity().geometry.n_layers;
        let mut missing_layers = HashMap::new();
        for job in queue {
            let Job { page_idx, layer_idx, record, done } = job;
            if self.progress.lock().closed {
                return;
            }
            let record = (*record).as_ref();
            if self.timed(|| self.file.write(page_idx, layer_idx, record)).is_err() {
                return;
            }
            let mut progress = self.progress.lock();
            progress.stats.records += 1;
            progress.stats.written_bytes += record.len() as u64;
            // Before those who wait look, under the lock with which they look.
            done.store(true, Ordering::Release);
            drop(progress);
            self.changed.notify_all();
            if sync_every_page {
                let missing = missing_layers.entry(page_idx).or_insert(n_layers);
                *missing -= 1;
                if *missing == 0 {
                    missing_layers.remove(&page_idx);
                    if self.timed(|| self.file.sync()).is_err() {
                        return;
                    }
                    self.progress.lock().stats.syncs += 1;
                }
            }
        }
    }

    fn timed<T>(&self, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let done = work();
        self.progress.lock().stats.busy += started.elapsed();
        done
    }
}

/// Tells all who wait that the thread has ended, however it ended.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}
