//! Contexts that outlive the process: sealed pages, the tokens behind them, and what they are.

mod manifest;
mod tail;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::disk::{Disk, Replacement, hold, is_unfinished, make_dir, names, system};
use crate::{Identity, KvError, PAGE_TOKENS, PageFile, Recovered, common_tokens};

use manifest::Manifest;
pub use tail::SavedTail;

const PAGES_FILE: &str = "pages.kv";
const MANIFEST_FILE: &str = "session.json";

/// What the names of tails begin with, before the number of the save.
const TAIL_PREFIX: &str = "tail-";

/// Characters of a name: well below what file systems take, to leave room for others.
const MAX_NAME_LEN: usize = 64;

/// A context in a directory `<kv-dir>/sessions/NAME/`, used by one process at a time.
///
/// Pages are sealed into [`pages`](Self::pages) as they come. [`save`](Self::save) adds what is not sealed, and the tokens.
/// A crash at any moment leaves what was saved last, or what was about to be; or, if the context was rewound since, its whole
/// pages alone.
#[derive(Debug)]
pub struct Session {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    pages: Arc<PageFile>,
    /// How many saves were begun.
    n_saves: u64,
}

/// What an opened session holds.
#[derive(Debug)]
pub struct Opened {
    /// To go on with.
    pub session: Session,
    /// The whole pages of its file, also those sealed since the last save; and what was dropped behind them.
    pub sealed: Recovered,
    /// The state that was saved last.
    pub saved: Option<Saved>,
    /// Why there is none, if there was: only whole pages are left then.
    pub lost: Option<KvError>,
}

/// A state of a context, to go on from bit for bit.
#[derive(Debug)]
#[non_exhaustive]
pub struct Saved {
    /// All its tokens.
    pub token_ids: Vec<u32>,
    /// Whether it has the bits that it would have had if it had never stopped.
    pub is_exact: bool,
    /// Pages of the file that it begins with. There may be more, sealed later.
    pub pages: usize,
    /// The rest, as the window held it.
    pub tail: SavedTail,
}

/// A state of a context, to be saved.
#[derive(Debug, Clone, Copy)]
pub struct SessionState<'a> {
    /// All its tokens.
    pub token_ids: &'a [u32],
    /// Those from here on are given as the window holds them, and those before are in pages that were written.
    pub first_token: usize,
    /// Whether it has the bits that it would have had if it had never stopped; whoever opens it next is told.
    pub is_exact: bool,
    /// Bytes of each state: what layers without keys and values keep of all tokens.
    pub state_bytes: &'a [usize],
}

/// What is written to a tail, or read from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailPart {
    /// Tokens of a layer that has keys and values, by its place among those: keys and then values (if those are kept), each row-major
    /// `[kv_heads, tokens, head_dim]` in the format of the window, little endian.
    Layer(u32),
    /// A state, by its place among the states.
    State(u32),
}

impl fmt::Display for TailPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(idx) => write!(f, "what the window holds of layer {idx}"),
            Self::State(idx) => write!(f, "state {idx}"),
        }
    }
}

/// A session in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub dir: PathBuf,
    /// What its files take on the disk, as far as is known.
    pub stored_bytes: u64,
    /// When one of them was changed last.
    pub modified: Option<SystemTime>,
}

impl Session {
    /// Makes a session without tokens.
    ///
    /// # Errors
    /// [`KvError::SessionName`]; [`KvError::Exists`]; [`KvError::Io`] or [`KvError::DiskFull`].
    ///
    /// # Panics
    /// As [`PageFile::create`].
    pub fn create(kv_dir: &Path, name: &str, identity: &Identity) -> Result<Self, KvError> {
        Self::create_on(system(), kv_dir, name, identity)
    }

    pub(crate) fn create_on(
        disk: Arc<dyn Disk>,
        kv_dir: &Path,
        name: &str,
        identity: &Identity,
    ) -> Result<Self, KvError> {
        let dir = session_dir(kv_dir, name)?;
        make_dir(&*disk, &dir)?;
        // Two processes may make it at once: one of them finds it made.
        let held = hold(kv_dir)?;
        let pages = PageFile::create_on(Arc::clone(&disk), &dir.join(PAGES_FILE), identity)?;
        drop(held);
        Ok(Self { disk, dir, pages: Arc::new(pages), n_saves: 0 })
    }

    /// Opens a session, checks all it holds, and removes what a crash left over.
    ///
    /// # Errors
    /// [`KvError::SessionName`]; [`KvError::NoSession`]; as [`PageFile::open`] and [`PageFile::recover`].
    pub fn open(kv_dir: &Path, name: &str, identity: &Identity) -> Result<Opened, KvError> {
        Self::open_on(system(), kv_dir, name, identity)
    }

    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        kv_dir: &Path,
        name: &str,
        identity: &Identity,
    ) -> Result<Opened, KvError> {
        let dir = session_dir(kv_dir, name)?;
        let path = dir.join(PAGES_FILE);
        if !path.exists() {
            return Err(KvError::NoSession { path: dir });
        }
        let pages = Arc::new(PageFile::open_on(Arc::clone(&disk), &path, identity)?);
        let sealed = pages.recover()?;
        let mut session = Self { disk, dir, pages, n_saves: 0 };
        let (saved, lost) = match session.load(&sealed) {
            Ok(saved) => (saved, None),
            Err(error) => (None, Some(error)),
        };
        // Also above the numbers of saves that were begun and not finished: a name is used once.
        for name in names(&session.dir)? {
            let number = name.strip_prefix(TAIL_PREFIX).and_then(|number| number.parse().ok());
            session.n_saves = session.n_saves.max(number.unwrap_or(0));
        }
        match &saved {
            Some(saved) => session.clean(Some(saved.tail.path()))?,
            None => session.clean(None)?,
        }
        Ok(Opened { session, sealed, saved, lost })
    }

    /// The state that was saved last; none if nothing was ever saved.
    fn load(&self, sealed: &Recovered) -> Result<Option<Saved>, KvError> {
        let path = self.dir.join(MANIFEST_FILE);
        let Some(manifest) = Manifest::read(&path, self.pages.identity())? else { return Ok(None) };
        let pages = manifest.first_token.div_ceil(PAGE_TOKENS);
        let same = common_tokens(&manifest.token_ids, &sealed.token_ids);
        let got_pages = same / PAGE_TOKENS;
        if got_pages < pages {
            return Err(KvError::SavedPagesGone { path, wanted_pages: pages, got_pages });
        }
        let tail =
            SavedTail::open(self.tail_path(manifest.save), &manifest, &self.pages.identity().geometry)?;
        let Manifest { token_ids, is_exact, .. } = manifest;
        Ok(Some(Saved { token_ids, is_exact, pages, tail }))
    }

    /// The directory of the session.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The sealed pages.
    pub fn pages(&self) -> &Arc<PageFile> {
        &self.pages
    }

    /// Saves the state of the context.
    ///
    /// `fill` is called once for each layer, from the first one on, to write its tokens from `first_token` on, and then once for
    /// each state.
    ///
    /// Until it returns, the state that was saved before is the one that counts.
    ///
    /// # Errors
    /// [`KvError::Io`] or [`KvError::DiskFull`]: what was saved before is still there, or is the new state; as
    /// [`PageFile::sync`].
    ///
    /// # Panics
    /// If `first_token` is past the last token.
    pub fn save(
        &mut self,
        state: &SessionState<'_>,
        fill: impl FnMut(TailPart, &mut [u8]),
    ) -> Result<(), KvError> {
        let SessionState { token_ids, first_token, state_bytes, .. } = *state;
        assert!(first_token <= token_ids.len(), "the tail begins at {first_token} of {}", token_ids.len());
        self.pages.sync()?;
        self.n_saves += 1;
        let identity = self.pages.identity();
        let tail_path = self.tail_path(self.n_saves);
        let parts = tail::Parts::new(&identity.geometry, token_ids.len() - first_token, state_bytes);
        let tail_checksums = tail::write(&self.disk, tail_path.clone(), &parts, fill)?;
        self.sync_dir()?;
        let manifest = Manifest::new(identity, self.n_saves, state, tail_checksums);
        let mut file = Replacement::new(&self.disk, self.dir.join(MANIFEST_FILE))?;
        file.write(&manifest.encode())?;
        file.finish()?;
        self.sync_dir()?;
        self.clean(Some(&tail_path))
    }

    fn tail_path(&self, save: u64) -> PathBuf {
        self.dir.join(format!("{TAIL_PREFIX}{save}"))
    }

    fn sync_dir(&self) -> Result<(), KvError> {
        self.disk.sync_dir(&self.dir).map_err(KvError::io(&self.dir, "sync"))
    }

    /// Removes tails of other states, and files that were never finished.
    fn clean(&self, tail: Option<&Path>) -> Result<(), KvError> {
        for name in names(&self.dir)? {
            let path = self.dir.join(&name);
            let stale = name.starts_with(TAIL_PREFIX) && tail.is_some_and(|tail| tail != path);
            if stale || is_unfinished(&name) {
                self.disk.remove(&path).map_err(KvError::io(&path, "remove"))?;
            }
        }
        Ok(())
    }
}

/// The sessions of a directory, by name.
///
/// # Errors
/// [`KvError::Io`] if it cannot be listed.
pub fn sessions(kv_dir: &Path) -> Result<Vec<SessionInfo>, KvError> {
    let mut found = Vec::new();
    for name in names(&kv_dir.join("sessions"))? {
        let Ok(dir) = session_dir(kv_dir, &name) else { continue };
        if !dir.join(PAGES_FILE).exists() {
            continue;
        }
        let files = names(&dir)?.into_iter().filter_map(|name| fs::metadata(dir.join(name)).ok());
        let (stored_bytes, modified) = files.fold((0, None), |(bytes, modified), file| {
            (bytes + file.len(), file.modified().ok().max(modified))
        });
        found.push(SessionInfo { name, dir, stored_bytes, modified });
    }
    Ok(found)
}

/// Removes a session.
///
/// # Errors
/// [`KvError::SessionName`]; [`KvError::NoSession`]; [`KvError::Locked`]; [`KvError::Io`].
pub fn remove_session(kv_dir: &Path, name: &str) -> Result<(), KvError> {
    let dir = session_dir(kv_dir, name)?;
    let path = dir.join(PAGES_FILE);
    let file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(KvError::NoSession { path: dir });
        }
        Err(error) => return Err(KvError::io(&path, "open")(error)),
    };
    crate::disk::lock(&file, &path)?;
    fs::remove_dir_all(&dir).map_err(KvError::io(&dir, "remove"))
}

/// Where a session of that name is.
fn session_dir(kv_dir: &Path, name: &str) -> Result<PathBuf, KvError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let valid =
        (1..=MAX_NAME_LEN).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with(['.', '-']);
    match valid {
        true => Ok(kv_dir.join("sessions").join(name)),
        false => Err(KvError::SessionName { name: name.to_owned() }),
    }
}
