//! The page file: all sealed pages of one context.

mod header;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flash_io::Span;
use parking_lot::Mutex;

use crate::disk::{AtomicFile, Disk, DiskFile, lock, parent_dir, system};
use crate::error::is_full;
use crate::record::{ExpectedRecord, RecordFault, RecordHeader, verify};
use crate::{Chain, Identity, KvError, PageLayout};

pub use header::FILE_HEADER_BYTES;

/// A file with the sealed pages of one context: a header, then each record at a fixed offset, `4096 + (page_idx ·
/// n_layers + layer_idx) · record_bytes`.
///
/// Records may be written in any order, and each is written only once unless the context is
/// [truncated](Self::truncate). The file is locked while it is open. Reads and writes are positioned, so threads can
/// share it.
///
/// The first failed write or sync is latched: all later writes return the same error, because the contents on disk are
/// unknown from then on.
#[derive(Debug)]
pub struct PageFile {
    disk: Arc<dyn Disk>,
    file: DiskFile,
    identity: Identity,
    layout: PageLayout,
    failed: Mutex<Option<Failure>>,
}

/// The pages that [`PageFile::recover`] found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Recovered {
    /// Tokens of all whole pages.
    pub token_ids: Vec<u32>,
    /// Number of whole pages, counted from the first.
    pub pages: usize,
    /// Hash of these pages.
    pub chain: Chain,
    /// Why the following page was rejected, if there was one. That page and all behind it have been cut off.
    pub dropped: Option<KvError>,
}

impl PageFile {
    /// Creates a file without pages. It appears atomically, with a complete header.
    ///
    /// # Errors
    /// [`KvError::Exists`]; [`KvError::Io`] or [`KvError::DiskFull`] if it cannot be written.
    ///
    /// # Panics
    /// If the geometry has a zero dimension or a quantized window.
    pub fn create(path: &Path, identity: &Identity) -> Result<Self, KvError> {
        Self::create_on(system(), path, identity)
    }

    pub(crate) fn create_on(disk: Arc<dyn Disk>, path: &Path, identity: &Identity) -> Result<Self, KvError> {
        if path.exists() {
            return Err(KvError::Exists { path: path.to_owned() });
        }
        let mut file = AtomicFile::new(&disk, path.to_owned())?;
        lock(file.file(), path)?;
        file.write(&header::encode(identity))?;
        let file = file.finish()?;
        let dir = parent_dir(path);
        disk.sync_dir(dir).map_err(KvError::io(dir, "sync"))?;
        Ok(Self::new(disk, file, identity))
    }

    /// Opens and locks a file and checks its header, but not its pages: see [`recover`](Self::recover).
    ///
    /// # Errors
    /// [`KvError::Locked`]; if the header does not match `identity`: [`KvError::NotAPageFile`],
    /// [`KvError::HeaderTruncated`], [`KvError::HeaderDamaged`], [`KvError::VersionMismatch`],
    /// [`KvError::ModelMismatch`], [`KvError::FormatMismatch`], [`KvError::WindowMismatch`],
    /// [`KvError::GeometryMismatch`]; [`KvError::Io`].
    pub fn open(path: &Path, identity: &Identity) -> Result<Self, KvError> {
        Self::open_on(system(), path, identity)
    }

    pub(crate) fn open_on(disk: Arc<dyn Disk>, path: &Path, identity: &Identity) -> Result<Self, KvError> {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let file = opened.map_err(KvError::io(path, "open"))?;
        lock(&file, path)?;
        header::check(&file, path, identity)?;
        Ok(Self::new(disk, DiskFile { file, path: path.to_owned() }, identity))
    }

    fn new(disk: Arc<dyn Disk>, file: DiskFile, identity: &Identity) -> Self {
        let geometry = &identity.geometry;
        assert!(geometry.window_format.code_bits().is_none(), "a window is never quantised");
        let layout = geometry.layout();
        Self { disk, file, identity: *identity, layout, failed: Mutex::new(None) }
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Returns the identity of the cache.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Returns the layout of a record.
    pub fn layout(&self) -> &PageLayout {
        &self.layout
    }

    /// Returns the byte range of a record in the file.
    ///
    /// # Panics
    /// If the layer does not exist.
    pub fn span(&self, page_idx: u32, layer_idx: u32) -> Span {
        let n_layers = self.identity.geometry.n_layers;
        assert!(layer_idx < n_layers, "layer {layer_idx} of {n_layers}");
        let record = u64::from(page_idx) * u64::from(n_layers) + u64::from(layer_idx);
        let record_bytes = self.layout.record_bytes() as u64;
        let start = FILE_HEADER_BYTES as u64 + record * record_bytes;
        Span::new(start, start + record_bytes)
    }

    /// Writes a sealed record at its offset. Only [`sync`](Self::sync) makes it durable.
    ///
    /// # Errors
    /// [`KvError::Write`] or [`KvError::DiskFull`], for this write or the first one that failed.
    ///
    /// # Panics
    /// If `record` does not have the length of a record, or the layer does not exist.
    pub fn write(&self, page_idx: u32, layer_idx: u32, record: &[u8]) -> Result<(), KvError> {
        assert_eq!(record.len(), self.layout.record_bytes(), "length of a record");
        self.check()?;
        let offset = self.span(page_idx, layer_idx).start;
        let written = self.disk.write_at(&self.file, offset, record);
        written.map_err(|error| {
            self.latch(Failure::Write { offset, wanted_bytes: record.len() as u64, error: error.into() })
        })
    }

    /// Syncs the file: everything written so far survives a crash.
    ///
    /// # Errors
    /// The errors of [`write`](Self::write), and [`KvError::SyncFailed`].
    pub fn sync(&self) -> Result<(), KvError> {
        self.check()?;
        self.disk
            .sync(&self.file)
            .map_err(|error| self.latch(Failure::SyncFailed { doing: "sync", error: error.into() }))
    }

    /// Truncates the file to its first `pages` pages, to rewind the context.
    ///
    /// # Errors
    /// The errors of [`sync`](Self::sync).
    pub fn truncate(&self, pages: usize) -> Result<(), KvError> {
        self.check()?;
        let failed =
            |error: io::Error| self.latch(Failure::SyncFailed { doing: "truncate", error: error.into() });
        let end = self.span(u32::try_from(pages).expect("page counts fit in 32 bits"), 0).start;
        if self.len_bytes()? > end {
            self.disk.set_len(&self.file, end).map_err(failed)?;
        }
        Ok(())
    }

    /// Returns the latched failure as an error, if there is one.
    ///
    /// # Errors
    /// The errors of [`write`](Self::write).
    pub fn check(&self) -> Result<(), KvError> {
        match &*self.failed.lock() {
            Some(failed) => Err(failed.error(self.path())),
            None => Ok(()),
        }
    }

    /// Reads and verifies a record.
    ///
    /// # Errors
    /// [`KvError::Record`] if the record is damaged or a different one; [`KvError::Io`].
    ///
    /// # Panics
    /// If `record` does not have the length of a record, or the layer does not exist.
    pub fn read(&self, page_idx: u32, layer_idx: u32, record: &mut [u8]) -> Result<RecordHeader, KvError> {
        assert_eq!(record.len(), self.layout.record_bytes(), "length of a record");
        let span = self.span(page_idx, layer_idx);
        let expected =
            ExpectedRecord { path: self.path(), format: self.layout.format(), page_idx, layer_idx };
        let got_bytes =
            read_full(&self.file.file, span.start, record).map_err(KvError::io(self.path(), "read"))?;
        if got_bytes < record.len() {
            let wanted_bytes = record.len();
            return Err(expected.refuse(RecordFault::Short { wanted_bytes, got_bytes }));
        }
        verify(record, &expected)
    }

    /// Finds the whole pages from the first one on, and truncates the file behind them. A page is whole if the records
    /// of all layers are intact, hold the same tokens, and continue the pages before. Uses memory for one record.
    ///
    /// # Errors
    /// [`KvError::Io`] if the file cannot be read: nothing is cut then. Those of [`truncate`](Self::truncate) if it
    /// cannot be cut.
    pub fn recover(&self) -> Result<Recovered, KvError> {
        let mut record = vec![0; self.layout.record_bytes()];
        let mut found =
            Recovered { token_ids: Vec::new(), pages: 0, chain: Chain::root(&self.identity), dropped: None };
        let len_bytes = self.len_bytes()?;
        for page_idx in 0.. {
            if self.span(page_idx, 0).start >= len_bytes {
                break;
            }
            match self.whole_page(page_idx, found.chain, &mut record) {
                Ok(head) => {
                    found.token_ids.extend_from_slice(&head.token_ids);
                    found.chain = head.chain();
                    found.pages += 1;
                }
                Err(fault @ KvError::Record { .. }) => {
                    found.dropped = Some(fault);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        self.truncate(found.pages)?;
        Ok(found)
    }

    /// Reads all layers of a page, which must continue the prefix `before`.
    fn whole_page(&self, page_idx: u32, before: Chain, record: &mut [u8]) -> Result<RecordHeader, KvError> {
        let first = self.read(page_idx, 0, record)?;
        for layer_idx in 0..self.identity.geometry.n_layers {
            let head = if layer_idx == 0 { first.clone() } else { self.read(page_idx, layer_idx, record)? };
            if head.before != before || head.token_ids != first.token_ids {
                let expected =
                    ExpectedRecord { path: self.path(), format: self.layout.format(), page_idx, layer_idx };
                return Err(expected.refuse(RecordFault::Chain));
            }
        }
        Ok(first)
    }

    fn len_bytes(&self) -> Result<u64, KvError> {
        let metadata = self.file.file.metadata().map_err(KvError::io(self.path(), "examine"))?;
        Ok(metadata.len())
    }

    /// Latches a failure, unless one is latched already, and returns the latched one.
    fn latch(&self, failed: Failure) -> KvError {
        self.failed.lock().get_or_insert(failed).error(self.path())
    }
}

/// The latched failure of a file.
#[derive(Debug)]
enum Failure {
    Write { offset: u64, wanted_bytes: u64, error: Arc<io::Error> },
    SyncFailed { doing: &'static str, error: Arc<io::Error> },
}

impl Failure {
    fn error(&self, path: &Path) -> KvError {
        let path = PathBuf::from(path);
        match self {
            Self::Write { wanted_bytes, error, .. } if is_full(error) => {
                KvError::DiskFull { path, wanted_bytes: *wanted_bytes }
            }
            Self::Write { offset, wanted_bytes, error } => KvError::Write {
                path,
                offset: *offset,
                wanted_bytes: *wanted_bytes,
                error: Arc::clone(error),
            },
            Self::SyncFailed { doing, error } => {
                KvError::SyncFailed { path, doing, error: Arc::clone(error) }
            }
        }
    }
}

/// Reads until the buffer is full or the file ends, and returns the number of bytes read.
pub(crate) fn read_full(file: &std::fs::File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buf.len() {
        match file.read_at(&mut buf[len..], offset + len as u64) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}
