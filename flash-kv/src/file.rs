//! The pages of a context in a file.

mod head;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flash_io::Span;
use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile, Replacement, dir_of, lock, system};
use crate::error::is_full;
use crate::record::{Expected, RecordFault, RecordHead, verify};
use crate::{Chain, Identity, KvError, PageLayout};

pub use head::FILE_HEAD_BYTES;

/// The pages of one context: a head, then each record at a place of its own,
/// `4096 + (page_idx · n_layers + layer_idx) · record_bytes`.
///
/// A record is written once, in any order, and not again unless the context is [truncated](Self::truncate). The file is
/// locked for as long as it is open. It is written and read at offsets, so threads share it.
///
/// The first write or sync that fails is remembered: all later ones are refused with the same evidence, for nobody knows
/// what is on the disk then.
#[derive(Debug)]
pub struct PageFile {
    disk: Arc<dyn Disk>,
    file: DiskFile,
    identity: Identity,
    layout: PageLayout,
    failed: Mutex<Option<Failed>>,
}

/// What [`PageFile::recover`] found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Recovered {
    /// The tokens of all whole pages.
    pub token_ids: Vec<u32>,
    /// How many pages are whole, from the first one on.
    pub pages: usize,
    /// Names them.
    pub chain: Chain,
    /// Why the next one was not taken, if there was something: it is gone now, and what was behind it.
    pub dropped: Option<KvError>,
}

impl PageFile {
    /// Makes a file without pages. It appears with a whole head, or not at all.
    ///
    /// # Errors
    /// [`KvError::Exists`]; [`KvError::Io`] or [`KvError::DiskFull`] if it cannot be written.
    ///
    /// # Panics
    /// If the geometry is one of no numbers, or of a quantised window.
    pub fn create(path: &Path, identity: &Identity) -> Result<Self, KvError> {
        Self::create_on(system(), path, identity)
    }

    pub(crate) fn create_on(disk: Arc<dyn Disk>, path: &Path, identity: &Identity) -> Result<Self, KvError> {
        if path.exists() {
            return Err(KvError::Exists { path: path.to_owned() });
        }
        let mut file = Replacement::new(&disk, path.to_owned())?;
        lock(file.file(), path)?;
        file.write(&head::encode(identity))?;
        let file = file.finish()?;
        let dir = dir_of(path);
        disk.sync_dir(dir).map_err(KvError::io(dir, "sync"))?;
        Ok(Self::new(disk, file, identity))
    }

    /// Opens and locks a file. Its pages are not looked at: see [`recover`](Self::recover).
    ///
    /// # Errors
    /// [`KvError::Locked`]; if it is none of `identity`: [`KvError::Foreign`], [`KvError::HeadShort`],
    /// [`KvError::HeadDamaged`], [`KvError::OtherVersion`], [`KvError::OtherModel`], [`KvError::OtherFormat`],
    /// [`KvError::OtherWindow`], [`KvError::OtherGeometry`]; [`KvError::Io`].
    pub fn open(path: &Path, identity: &Identity) -> Result<Self, KvError> {
        Self::open_on(system(), path, identity)
    }

    pub(crate) fn open_on(disk: Arc<dyn Disk>, path: &Path, identity: &Identity) -> Result<Self, KvError> {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let file = opened.map_err(KvError::io(path, "open"))?;
        lock(&file, path)?;
        head::check(&file, path, identity)?;
        Ok(Self::new(disk, DiskFile { file, path: path.to_owned() }, identity))
    }

    fn new(disk: Arc<dyn Disk>, file: DiskFile, identity: &Identity) -> Self {
        let geometry = &identity.geometry;
        assert!(geometry.window_format.code_bits().is_none(), "a window is not quantised");
        let layout = geometry.layout();
        Self { disk, file, identity: *identity, layout, failed: Mutex::new(None) }
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Whose pages they are.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How a record is laid out.
    pub fn layout(&self) -> &PageLayout {
        &self.layout
    }

    /// Where a record lies in the file.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn span(&self, page_idx: u32, layer_idx: u32) -> Span {
        let n_layers = self.identity.geometry.n_layers;
        assert!(layer_idx < n_layers, "layer {layer_idx} of {n_layers}");
        let record = u64::from(page_idx) * u64::from(n_layers) + u64::from(layer_idx);
        let record_bytes = self.layout.record_bytes() as u64;
        let start = FILE_HEAD_BYTES as u64 + record * record_bytes;
        Span::new(start, start + record_bytes)
    }

    /// Writes a sealed record to its place. It is on the disk for good after [`sync`](Self::sync).
    ///
    /// # Errors
    /// [`KvError::Write`] or [`KvError::DiskFull`], of this write or of the first one that failed.
    ///
    /// # Panics
    /// If it is not as long as a record is, or there is no such layer.
    pub fn write(&self, page_idx: u32, layer_idx: u32, record: &[u8]) -> Result<(), KvError> {
        assert_eq!(record.len(), self.layout.record_bytes(), "length of a record");
        self.check()?;
        let offset = self.span(page_idx, layer_idx).start;
        let written = self.disk.write_at(&self.file, offset, record);
        written.map_err(|error| {
            self.latch(Failed::Write { offset, wanted_bytes: record.len() as u64, error: error.into() })
        })
    }

    /// Sees to it that what was written outlives a crash.
    ///
    /// # Errors
    /// As [`write`](Self::write), or [`KvError::Unsure`].
    pub fn sync(&self) -> Result<(), KvError> {
        self.check()?;
        self.disk
            .sync(&self.file)
            .map_err(|error| self.latch(Failed::Unsure { doing: "sync", error: error.into() }))
    }

    /// Forgets all but the first `pages` pages: the context is rewound.
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    pub fn truncate(&self, pages: usize) -> Result<(), KvError> {
        self.check()?;
        let failed = |error: io::Error| self.latch(Failed::Unsure { doing: "truncate", error: error.into() });
        let end = self.span(u32::try_from(pages).expect("pages are counted in 32 bits"), 0).start;
        if self.len_bytes()? > end {
            self.disk.set_len(&self.file, end).map_err(failed)?;
        }
        Ok(())
    }

    /// The first failure, if there was one.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn check(&self) -> Result<(), KvError> {
        match &*self.failed.lock() {
            Some(failed) => Err(failed.error(self.path())),
            None => Ok(()),
        }
    }

    /// Reads a record and checks it.
    ///
    /// # Errors
    /// [`KvError::Record`] if it is not whole, or another one; [`KvError::Io`].
    ///
    /// # Panics
    /// If `record` is not as long as a record is, or there is no such layer.
    pub fn read(&self, page_idx: u32, layer_idx: u32, record: &mut [u8]) -> Result<RecordHead, KvError> {
        assert_eq!(record.len(), self.layout.record_bytes(), "length of a record");
        let span = self.span(page_idx, layer_idx);
        let expected = Expected { path: self.path(), format: self.layout.format(), page_idx, layer_idx };
        let got_bytes =
            read_full(&self.file.file, span.start, record).map_err(KvError::io(self.path(), "read"))?;
        if got_bytes < record.len() {
            let wanted_bytes = record.len();
            return Err(expected.refuse(RecordFault::Short { wanted_bytes, got_bytes }));
        }
        verify(record, &expected)
    }

    /// Finds the pages that are whole, from the first one on: of each, every layer's record, with the same tokens, which go
    /// on from those before. The file is cut behind them. Takes the memory of one record.
    ///
    /// # Errors
    /// [`KvError::Io`] if the disk cannot be read: nothing is cut then. As [`truncate`](Self::truncate) if the file cannot
    /// be cut.
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

    /// Reads all layers of a page, which is to go on from `before`.
    fn whole_page(&self, page_idx: u32, before: Chain, record: &mut [u8]) -> Result<RecordHead, KvError> {
        let first = self.read(page_idx, 0, record)?;
        for layer_idx in 0..self.identity.geometry.n_layers {
            let head = if layer_idx == 0 { first.clone() } else { self.read(page_idx, layer_idx, record)? };
            if head.before != before || head.token_ids != first.token_ids {
                let expected =
                    Expected { path: self.path(), format: self.layout.format(), page_idx, layer_idx };
                return Err(expected.refuse(RecordFault::Chain));
            }
        }
        Ok(first)
    }

    fn len_bytes(&self) -> Result<u64, KvError> {
        let metadata = self.file.file.metadata().map_err(KvError::io(self.path(), "examine"))?;
        Ok(metadata.len())
    }

    /// Remembers a failure, unless there was one before, and tells the first one.
    fn latch(&self, failed: Failed) -> KvError {
        self.failed.lock().get_or_insert(failed).error(self.path())
    }
}

/// The first failure of a file.
#[derive(Debug)]
enum Failed {
    Write { offset: u64, wanted_bytes: u64, error: Arc<io::Error> },
    Unsure { doing: &'static str, error: Arc<io::Error> },
}

impl Failed {
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
            Self::Unsure { doing, error } => KvError::Unsure { path, doing, error: Arc::clone(error) },
        }
    }
}

/// Reads until the buffer is full or the file ends, and says how much there was.
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
