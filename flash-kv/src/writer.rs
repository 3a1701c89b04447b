//! Background writer of sealed records.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Condvar, Mutex};

use crate::{KvError, PageFile};

/// Configuration of a [`Writer`].
#[derive(Debug, Clone)]
pub struct WriterConfig {
    /// Length of the queue in records. When it is full, [`Writer::submit`] blocks, so that a prefill cannot outrun the
    /// disk and fill memory with unwritten records.
    pub queue_len: usize,
    /// Whether to sync the file whenever all layers of a page are written: for contexts that must survive a crash.
    pub sync_every_page: bool,
}

impl Default for WriterConfig {
    fn default() -> Self {
        Self { queue_len: 8, sync_every_page: false }
    }
}

/// Statistics of a [`Writer`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriterStats {
    /// Records written.
    pub records: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Number of syncs after whole pages.
    pub syncs: u64,
    /// Time spent in writes and syncs.
    pub busy: Duration,
}

/// A thread that writes sealed records to a page file, in the order of submission.
///
/// Dropping it stops after the record in progress and discards the queue: call [`flush`](Self::flush) first.
pub struct Writer {
    shared: Arc<Shared>,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// Handle to a submitted record.
#[derive(Debug, Clone)]
pub struct WriteHandle {
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
    /// Set when nothing more will be written: the writer was dropped, or the file failed.
    closed: bool,
    stats: WriterStats,
}

impl Writer {
    /// Starts the writer thread.
    ///
    /// # Errors
    /// [`KvError::Io`] if the thread cannot be started.
    pub fn new(file: Arc<PageFile>, config: &WriterConfig) -> Result<Self, KvError> {
        let (jobs, queue) = crossbeam_channel::bounded(config.queue_len);
        let shared = Arc::new(Shared { file, progress: Mutex::default(), changed: Condvar::new() });
        let close_on_drop = CloseOnDrop(Arc::clone(&shared));
        let sync_every_page = config.sync_every_page;
        let thread = thread::Builder::new().name("kv-writer".to_owned());
        let started = thread.spawn(move || {
            let close_on_drop = close_on_drop;
            close_on_drop.0.write_all(&queue, sync_every_page);
        });
        let thread = started.map_err(KvError::io(shared.file.path(), "start a writer thread"))?;
        Ok(Self { shared, jobs: Some(jobs), thread: Some(thread) })
    }

    /// Returns the file.
    pub fn file(&self) -> &Arc<PageFile> {
        &self.shared.file
    }

    /// Submits a sealed record; blocks while the queue is full.
    ///
    /// # Errors
    /// The first failure of the file, or [`KvError::WriterClosed`] if the thread has ended for another reason.
    ///
    /// # Panics
    /// If `record` does not have the length of a record, or the layer does not exist.
    pub fn submit<R>(&self, page_idx: u32, layer_idx: u32, record: Arc<R>) -> Result<WriteHandle, KvError>
    where
        R: AsRef<[u8]> + Send + Sync + 'static,
    {
        let file = &self.shared.file;
        assert_eq!((*record).as_ref().len(), file.layout().record_bytes(), "length of a record");
        assert!(layer_idx < file.identity().geometry.n_layers, "there is no layer {layer_idx}");
        let done = Arc::new(AtomicBool::new(false));
        let written = WriteHandle { shared: Arc::clone(&self.shared), done: Arc::clone(&done) };
        self.shared.progress.lock().submitted += 1;
        let jobs = self.jobs.as_ref().expect("the queue is there until the writer is dropped");
        match jobs.send(Job { page_idx, layer_idx, record, done }) {
            Ok(()) => Ok(written),
            Err(_) => Err(self.shared.refusal()),
        }
    }

    /// Waits until all submitted records are written. Only [`PageFile::sync`] makes them durable.
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

    /// Returns the statistics so far.
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
            // Only `as_ref` of a record can panic there, and all waiting threads have been woken with an error.
            let _ = thread.join();
        }
    }
}

impl WriteHandle {
    /// Returns whether the record can be read from the file.
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
    /// Returns the error for a record that was not written.
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

    /// Writes records until the writer is dropped or the file fails.
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
            // Set while the progress lock is held, under which waiting threads check it.
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

/// Wakes all waiting threads when the writer thread ends, even by a panic.
struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}
