//! Sealed pages of prefixes that later prompts may share.

mod stock;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use flash_io::Span;

use crate::disk::{Disk, Replacement, make_dir, system};
use crate::file::read_full;
use crate::record::{Expected, RecordFault, RecordHead, verify};
use crate::{Chain, Identity, KvError, PageLayout};

pub use stock::{Collected, PrefixPage, collect_prefixes, prefixes, remove_prefix};

const PREFIXES_DIR: &str = "prefixes";

/// Digits of an identity in the name of a directory. A clash is harmless: names of pages hold the whole identity.
const IDENTITY_DIGITS: usize = 16;

/// How a page is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PrefixPart {
    /// As it is sealed.
    Page,
    /// As the window held it.
    ///
    /// A query sees the most recent tokens as the window holds them, so a run that begins behind a page needs the pages that
    /// its window reaches into unquantised, to compute the same bits as the run that computed them. If pages are stored as
    /// the window holds them, a page is its own twin, and no other one is kept.
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

/// The pages of one [`Identity`] in `<kv-dir>/prefixes/`, each in a file that is named by the [`Chain`] up to its end.
///
/// Files appear whole and never change, so any number of processes may use them at once.
#[derive(Debug)]
pub struct PrefixStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    identity: Identity,
    page: PageLayout,
    twin: PageLayout,
}

/// The longest known prefix of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Names of its pages, the first one first.
    pub chains: Vec<Chain>,
}

impl Match {
    /// How many pages it has.
    pub fn pages(&self) -> usize {
        self.chains.len()
    }
}

impl PrefixStore {
    /// The store of an identity; its directory is made if it is not there.
    ///
    /// # Errors
    /// [`KvError::Io`].
    ///
    /// # Panics
    /// If the geometry is one of no numbers.
    pub fn open(kv_dir: &Path, identity: &Identity) -> Result<Self, KvError> {
        Self::open_on(system(), kv_dir, identity)
    }

    pub(crate) fn open_on(disk: Arc<dyn Disk>, kv_dir: &Path, identity: &Identity) -> Result<Self, KvError> {
        let digest = identity.digest();
        let dir = kv_dir.join(PREFIXES_DIR).join(format!("{digest:.IDENTITY_DIGITS$}"));
        make_dir(&*disk, &dir)?;
        let (page, twin) = (identity.geometry.layout(), identity.geometry.window_layout());
        Ok(Self { disk, dir, identity: *identity, page, twin })
    }

    /// Whether pages need a twin: they are not stored as the window holds them.
    pub fn needs_twins(&self) -> bool {
        self.page != self.twin
    }

    /// How the records of a part are laid out.
    pub fn layout(&self, part: PrefixPart) -> &PageLayout {
        match part {
            PrefixPart::Page => &self.page,
            PrefixPart::Twin => &self.twin,
        }
    }

    /// The file of a page. Without need for twins a page is its own.
    pub fn path(&self, chain: Chain, part: PrefixPart) -> PathBuf {
        let part = if self.needs_twins() { part } else { PrefixPart::Page };
        self.dir.join(format!("{chain}.{}", part.extension()))
    }

    /// Where a layer's record lies in the file of a page.
    pub fn span(&self, part: PrefixPart, layer_idx: u32) -> Span {
        let record_bytes = self.layout(part).record_bytes() as u64;
        let start = u64::from(layer_idx) * record_bytes;
        Span::new(start, start + record_bytes)
    }

    fn file_bytes(&self, part: PrefixPart) -> u64 {
        self.span(part, self.identity.geometry.n_layers).start
    }

    /// Whether the file of a page is there and has its length.
    pub fn holds(&self, chain: Chain, part: PrefixPart) -> bool {
        let file = fs::metadata(self.path(chain, part));
        file.is_ok_and(|file| file.is_file() && file.len() == self.file_bytes(part))
    }

    /// Keeps a part of the page that `chain` ends with. `fill` is called once a layer, from the first one on, to write the
    /// sealed record. Nothing is done if the part is there already. It appears whole and outlives a crash, or not at all.
    ///
    /// # Errors
    /// [`KvError::Record`] if a record is not one of that page; [`KvError::Io`] or [`KvError::DiskFull`]; whatever `fill`
    /// says.
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
        let mut file = Replacement::new(&self.disk, path.clone())?;
        let mut record = vec![0; self.layout(part).record_bytes()];
        for layer_idx in 0..self.identity.geometry.n_layers {
            fill(layer_idx, &mut record)?;
            self.check(&record, &path, chain, page_idx, layer_idx, part)?;
            file.write(&record)?;
        }
        file.finish()?;
        self.disk.sync_dir(&self.dir).map_err(KvError::io(&self.dir, "sync"))
    }

    /// The longest prefix of `token_ids`, in whole pages, that a run can begin behind: all its pages are there, and the twins
    /// of those that the window reaches into. They count as used now.
    ///
    /// A run needs at least one token more for its first logits: leave the last one away if it is not to be computed anew.
    pub fn longest(&self, token_ids: &[u32]) -> Match {
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
        Match { chains }
    }

    /// What is used is kept the longest.
    fn touch(&self, chain: Chain) {
        let path = self.path(chain, PrefixPart::Page);
        let touched = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = touched {
            tracing::debug!(path = %path.display(), %error, "the use of a page is not noted");
        }
    }

    /// Reads a layer's record of the page that `chain` ends with, and checks it. A file with a record that is not what it
    /// should be is removed.
    ///
    /// # Errors
    /// [`KvError::Record`]: the page is not there, or not any more; [`KvError::Io`].
    ///
    /// # Panics
    /// If `record` is not as long as the layout of the part says, or there is no such layer.
    pub fn read(
        &self,
        chain: Chain,
        page_idx: u32,
        layer_idx: u32,
        part: PrefixPart,
        record: &mut [u8],
    ) -> Result<RecordHead, KvError> {
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
            tracing::warn!(%error, "a page of a prefix cannot be used and is removed");
            if let Err(error) = self.disk.remove(&path) {
                tracing::warn!(path = %path.display(), %error, "it could not be removed");
            }
        }
        checked
    }

    fn expected<'a>(&self, path: &'a Path, page_idx: u32, layer_idx: u32, part: PrefixPart) -> Expected<'a> {
        Expected { path, format: self.layout(part).format(), page_idx, layer_idx }
    }

    fn check(
        &self,
        record: &[u8],
        path: &Path,
        chain: Chain,
        page_idx: u32,
        layer_idx: u32,
        part: PrefixPart,
    ) -> Result<RecordHead, KvError> {
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
