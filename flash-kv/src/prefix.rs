//! Store of sealed pages for prefixes that later prompts may share.

mod evict;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use flash_io::Span;

use crate::disk::{AtomicFile, Disk, create_dir_synced, system};
use crate::file::read_full;
use crate::record::{ExpectedRecord, RecordFault, RecordHeader, verify};
use crate::{Chain, Identity, KvError, PageLayout};

pub use evict::{EvictedPrefixes, PrefixPage, evict_prefixes, prefixes, remove_prefix};

const PREFIXES_DIR: &str = "prefixes";

/// Digits of the identity in a directory's name. A collision is harmless: names of pages include the whole identity.
const IDENTITY_DIGITS: usize = 16;

/// The stored form of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PrefixPart {
    /// The sealed page, in the page format.
    Page,
    /// The page in the window's format.
    ///
    /// Attention sees the most recent tokens unquantized. A run that starts behind a page therefore needs the twins of
    /// the pages that its window overlaps, to compute the same bits as the run that sealed them. If pages are stored in
    /// the window's format, a page serves as its own twin.
    Twin,
}

impl PrefixPart {
    fn extension(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Twin => "twin",
        }
    }
}

/// The prefix pages of one [`Identity`] in `<kv-dir>/prefixes/`, one file per page, named by the [`Chain`] up to its
/// end.
///
/// Files appear atomically and never change, so any number of processes can share them.
#[derive(Debug)]
pub struct PrefixStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    identity: Identity,
    page: PageLayout,
    twin: PageLayout,
}

/// The longest stored prefix of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixMatch {
    /// Hashes of its pages, in order.
    pub chains: Vec<Chain>,
}

impl PrefixMatch {
    /// Returns the number of pages.
    pub fn pages(&self) -> usize {
        self.chains.len()
    }
}

impl PrefixStore {
    /// Opens the store of an identity, creating its directory if necessary.
    ///
    /// # Errors
    /// [`KvError::Io`].
    ///
    /// # Panics
    /// If the geometry has a zero dimension.
    pub fn open(kv_dir: &Path, identity: &Identity) -> Result<Self, KvError> {
        Self::open_on(system(), kv_dir, identity)
    }

    pub(crate) fn open_on(disk: Arc<dyn Disk>, kv_dir: &Path, identity: &Identity) -> Result<Self, KvError> {
        let digest = identity.digest();
        let dir = kv_dir.join(PREFIXES_DIR).join(format!("{digest:.IDENTITY_DIGITS$}"));
        create_dir_synced(&*disk, &dir)?;
        let (page, twin) = (identity.geometry.layout(), identity.geometry.window_layout());
        Ok(Self { disk, dir, identity: *identity, page, twin })
    }

    /// Returns whether pages need twins, because the page format is not the window's.
    pub fn needs_twins(&self) -> bool {
        self.page != self.twin
    }

    /// Returns the layout of the records of a part.
    pub fn layout(&self, part: PrefixPart) -> &PageLayout {
        match part {
            PrefixPart::Page => &self.page,
            PrefixPart::Twin => &self.twin,
        }
    }

    /// Returns the path of a page's file. If no twins are needed, both parts are the same file.
    pub fn path(&self, chain: Chain, part: PrefixPart) -> PathBuf {
        let part = if self.needs_twins() { part } else { PrefixPart::Page };
        self.dir.join(format!("{chain}.{}", part.extension()))
    }

    /// Returns the byte range of a layer's record in the file of a page.
    pub fn span(&self, part: PrefixPart, layer_idx: u32) -> Span {
        let record_bytes = self.layout(part).record_bytes() as u64;
        let start = u64::from(layer_idx) * record_bytes;
        Span::new(start, start + record_bytes)
    }

    fn file_bytes(&self, part: PrefixPart) -> u64 {
        self.span(part, self.identity.geometry.n_layers).start
    }

    /// Returns whether the file of a page exists with its full length.
    pub fn holds(&self, chain: Chain, part: PrefixPart) -> bool {
        let file = fs::metadata(self.path(chain, part));
        file.is_ok_and(|file| file.is_file() && file.len() == self.file_bytes(part))
    }

    /// Stores a part of the page that `chain` ends with, unless it is stored already. `fill` is called once per layer,
    /// in order, to write the sealed record. The file appears atomically, and survives a crash once this returns.
    ///
    /// # Errors
    /// [`KvError::Record`] if `fill` writes a record of a different page; [`KvError::Io`] or [`KvError::DiskFull`]; any
    /// error of `fill`.
    pub fn put(
        &self,
        chain: Chain,
        page_idx: u32,
        part: PrefixPart,
        mut fill: impl FnMut(u32, &mut [u8]) -> Result<(), KvError>,
    ) -> Result<(), KvError> {
        if self.holds(chain, part) {
            return Ok(());
        }
        let path = self.path(chain, part);
        let mut file = AtomicFile::new(&self.disk, path.clone())?;
        let mut record = vec![0; self.layout(part).record_bytes()];
        for layer_idx in 0..self.identity.geometry.n_layers {
            fill(layer_idx, &mut record)?;
            self.check(&record, &path, chain, page_idx, layer_idx, part)?;
            file.write(&record)?;
        }
        file.finish()?;
        self.disk.sync_dir(&self.dir).map_err(KvError::io(&self.dir, "sync"))
    }

    /// Returns the longest whole-page prefix of `token_ids` that a run can continue: all its pages are stored, and the
    /// twins of those that the window overlaps. Marks these pages as just used.
    ///
    /// Computing the first logits takes at least one more token: pass the prompt without its last token to leave one.
    pub fn longest(&self, token_ids: &[u32]) -> PrefixMatch {
        let pages = Chain::pages(&self.identity, token_ids);
        let mut chains: Vec<_> = pages.take_while(|chain| self.holds(*chain, PrefixPart::Page)).collect();
        let window_pages = self.identity.geometry.window_pages();
        let n_twins = |chains: &[Chain]| {
            let twins = chains.iter().rev().take(window_pages);
            twins.take_while(|chain| self.holds(**chain, PrefixPart::Twin)).count()
        };
        while n_twins(&chains) < chains.len().min(window_pages) {
            chains.pop();
        }
        for chain in &chains {
            self.touch(*chain);
        }
        PrefixMatch { chains }
    }

    /// Updates the modification time, by which eviction orders pages.
    fn touch(&self, chain: Chain) {
        let path = self.path(chain, PrefixPart::Page);
        let touched = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = touched {
            tracing::debug!(path = %path.display(), %error, "cannot update the last use of a page");
        }
    }

    /// Reads and verifies a layer's record of the page that `chain` ends with. A file with a damaged or wrong record is
    /// removed.
    ///
    /// # Errors
    /// [`KvError::Record`] if the page is missing or was damaged and removed; [`KvError::Io`].
    ///
    /// # Panics
    /// If `record` does not have the length of a record of the part, or the layer does not exist.
    pub fn read(
        &self,
        chain: Chain,
        page_idx: u32,
        layer_idx: u32,
        part: PrefixPart,
        record: &mut [u8],
    ) -> Result<RecordHeader, KvError> {
        assert_eq!(record.len(), self.layout(part).record_bytes(), "length of a record");
        assert!(layer_idx < self.identity.geometry.n_layers, "there is no layer {layer_idx}");
        let path = self.path(chain, part);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(self.expected(&path, page_idx, layer_idx, part).refuse(RecordFault::Missing));
            }
            Err(error) => return Err(KvError::io(&path, "open")(error)),
        };
        let offset = self.span(part, layer_idx).start;
        let got_bytes = read_full(&file, offset, record).map_err(KvError::io(&path, "read"))?;
        let checked = self.check(&record[..got_bytes], &path, chain, page_idx, layer_idx, part);
        if let Err(error) = &checked {
            tracing::warn!(%error, "removing an unusable page of a prefix");
            if let Err(error) = self.disk.remove(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove an unusable page of a prefix");
            }
        }
        checked
    }

    fn expected<'a>(
        &self,
        path: &'a Path,
        page_idx: u32,
        layer_idx: u32,
        part: PrefixPart,
    ) -> ExpectedRecord<'a> {
        ExpectedRecord { path, format: self.layout(part).format(), page_idx, layer_idx }
    }

    fn check(
        &self,
        record: &[u8],
        path: &Path,
        chain: Chain,
        page_idx: u32,
        layer_idx: u32,
        part: PrefixPart,
    ) -> Result<RecordHeader, KvError> {
        let expected = self.expected(path, page_idx, layer_idx, part);
        let wanted_bytes = self.layout(part).record_bytes();
        if record.len() < wanted_bytes {
            return Err(expected.refuse(RecordFault::Short { wanted_bytes, got_bytes: record.len() }));
        }
        let head = verify(record, &expected)?;
        match head.chain() == chain {
            true => Ok(head),
            false => Err(expected.refuse(RecordFault::Chain)),
        }
    }
}
