//! Persistent contexts: sealed pages, the unsealed tail, and a manifest.

mod manifest;
mod tail;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::disk::{AtomicFile, Disk, create_dir_synced, is_temporary, list_dir, lock_dir, system};
use crate::{Identity, KvError, PAGE_TOKENS, PageFile, Recovered, common_tokens};

use manifest::Manifest;
pub use tail::SavedTail;

const PAGES_FILE: &str = "pages.kv";
const MANIFEST_FILE: &str = "session.json";

/// Prefix of the names of tail files; the number of the save follows.
const TAIL_PREFIX: &str = "tail-";

/// Longest session name in characters: well below file system limits, to leave room for suffixes.
const MAX_NAME_LEN: usize = 64;

/// A persistent context in the directory `<kv-dir>/sessions/NAME/`, used by one process at a time.
///
/// Names have 1 to 64 ASCII letters, digits, `.`, `_` and `-`, and begin with neither `.` nor `-`.
///
/// Pages are written to [`pages`](Self::pages) as they are sealed. [`save`](Self::save) adds the unsealed tail and the
/// token ids. A crash at any time leaves either the last saved state or the one being saved; if the context was rewound
/// since, it may leave only whole pages.
#[derive(Debug)]
pub struct Session {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    pages: Arc<PageFile>,
    /// Number of saves started.
    n_saves: u64,
}

/// An opened session with its recovered contents.
#[derive(Debug)]
pub struct OpenedSession {
    /// The session.
    pub session: Session,
    /// The whole pages of its page file, including those sealed after the last save, and what was dropped behind them.
    pub sealed: Recovered,
    /// The last saved state.
    pub saved: Option<SavedState>,
    /// Why the saved state was lost, if it was: only whole pages remain then.
    pub lost: Option<KvError>,
}

/// A saved state, from which a context resumes bit for bit.
#[derive(Debug)]
#[non_exhaustive]
pub struct SavedState {
    /// All token ids.
    pub token_ids: Vec<u32>,
    /// Whether the cache has the same bits as in an uninterrupted run.
    pub is_exact: bool,
    /// Number of pages of the page file that belong to it. The file may hold more, sealed later.
    pub pages: usize,
    /// The remaining tokens, in the window's format.
    pub tail: SavedTail,
}

/// The state of a context to save.
#[derive(Debug, Clone, Copy)]
pub struct SessionState<'a> {
    /// All token ids.
    pub token_ids: &'a [u32],
    /// Position of the first token in the tail, which is saved in the window's format. All tokens before it must be in
    /// written pages.
    pub first_token: usize,
    /// Whether the cache has the same bits as in an uninterrupted run.
    pub is_exact: bool,
    /// Sizes in bytes of the recurrent states, kept by layers without keys and values.
    pub state_bytes: &'a [usize],
}

/// A part of a tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailPart {
    /// The tail tokens of a layer, indexed among the layers that have keys and values: keys, then values (if stored
    /// separately), each row-major `[kv_heads, tokens, head_dim]` in the window's format, little endian.
    Layer(u32),
    /// A recurrent state, by its index in [`SessionState::state_bytes`]: bytes that this crate does not interpret.
    State(u32),
}

impl fmt::Display for TailPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(idx) => write!(f, "the tail of layer {idx}"),
            Self::State(idx) => write!(f, "state {idx}"),
        }
    }
}

/// Summary of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Name of the session.
    pub name: String,
    /// Directory of the session.
    pub dir: PathBuf,
    /// Size on disk of its readable files.
    pub stored_bytes: u64,
    /// Time of the last change to any of its files.
    pub modified: Option<SystemTime>,
}

impl Session {
    /// Creates a session without tokens.
    ///
    /// # Errors
    /// [`KvError::SessionName`]; [`KvError::Exists`]; [`KvError::Io`] or [`KvError::DiskFull`].
    ///
    /// # Panics
    /// Panics like [`PageFile::create`].
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
        create_dir_synced(&*disk, &dir)?;
        // Two processes may create the same session: the second one must find it existing.
        let locked = lock_dir(kv_dir)?;
        let pages = PageFile::create_on(Arc::clone(&disk), &dir.join(PAGES_FILE), identity)?;
        drop(locked);
        Ok(Self { disk, dir, pages: Arc::new(pages), n_saves: 0 })
    }

    /// Opens a session, verifies all its contents, and removes leftovers of a crash. A damaged saved state is not an
    /// error: see [`OpenedSession::lost`].
    ///
    /// # Errors
    /// [`KvError::SessionName`]; [`KvError::NoSession`]; those of [`PageFile::open`] and [`PageFile::recover`].
    pub fn open(kv_dir: &Path, name: &str, identity: &Identity) -> Result<OpenedSession, KvError> {
        Self::open_on(system(), kv_dir, name, identity)
    }

    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        kv_dir: &Path,
        name: &str,
        identity: &Identity,
    ) -> Result<OpenedSession, KvError> {
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
        // Unfinished saves count too, so that no tail name is ever reused.
        for name in list_dir(&session.dir)? {
            let number = name.strip_prefix(TAIL_PREFIX).and_then(|number| number.parse().ok());
            session.n_saves = session.n_saves.max(number.unwrap_or(0));
        }
        match &saved {
            Some(saved) => session.clean(Some(saved.tail.path()))?,
            None => session.clean(None)?,
        }
        Ok(OpenedSession { session, sealed, saved, lost })
    }

    /// Loads the last saved state; `None` if nothing was ever saved.
    fn load(&self, sealed: &Recovered) -> Result<Option<SavedState>, KvError> {
        let path = self.dir.join(MANIFEST_FILE);
        let Some(manifest) = Manifest::read(&path, self.pages.identity())? else { return Ok(None) };
        let pages = manifest.first_token.div_ceil(PAGE_TOKENS);
        let same = common_tokens(&manifest.token_ids, &sealed.token_ids);
        let got_pages = same / PAGE_TOKENS;
        if got_pages < pages {
            return Err(KvError::SavedPagesMissing { path, wanted_pages: pages, got_pages });
        }
        let tail =
            SavedTail::open(self.tail_path(manifest.save), &manifest, &self.pages.identity().geometry)?;
        let Manifest { token_ids, is_exact, .. } = manifest;
        Ok(Some(SavedState { token_ids, is_exact, pages, tail }))
    }

    /// Returns the directory of the session.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the page file.
    pub fn pages(&self) -> &Arc<PageFile> {
        &self.pages
    }

    /// Saves the state of the context.
    ///
    /// `fill` is called once for each layer, in order, to write its tokens from `first_token` on, and then once for
    /// each state, into a buffer of the length that [`TailPart`] describes.
    ///
    /// The previously saved state stays in effect until this returns.
    ///
    /// # Errors
    /// [`KvError::Io`] or [`KvError::DiskFull`]: the previous or the new state is in effect then; those of
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
        let layout = tail::TailLayout::new(&identity.geometry, token_ids.len() - first_token, state_bytes);
        let tail_checksums = tail::write(&self.disk, tail_path.clone(), &layout, fill)?;
        self.sync_dir()?;
        let manifest = Manifest::new(identity, self.n_saves, state, tail_checksums);
        let mut file = AtomicFile::new(&self.disk, self.dir.join(MANIFEST_FILE))?;
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

    /// Removes the tails of other saves, and temporary files.
    fn clean(&self, tail: Option<&Path>) -> Result<(), KvError> {
        for name in list_dir(&self.dir)? {
            let path = self.dir.join(&name);
            let stale = name.starts_with(TAIL_PREFIX) && tail.is_some_and(|tail| tail != path);
            if stale || is_temporary(&name) {
                self.disk.remove(&path).map_err(KvError::io(&path, "remove"))?;
            }
        }
        Ok(())
    }
}

/// Lists the sessions in `kv_dir`, sorted by name.
///
/// # Errors
/// [`KvError::Io`] if it cannot be listed.
pub fn sessions(kv_dir: &Path) -> Result<Vec<SessionInfo>, KvError> {
    let mut found = Vec::new();
    for name in list_dir(&kv_dir.join("sessions"))? {
        let Ok(dir) = session_dir(kv_dir, &name) else { continue };
        if !dir.join(PAGES_FILE).exists() {
            continue;
        }
        let files = list_dir(&dir)?.into_iter().filter_map(|name| fs::metadata(dir.join(name)).ok());
        let (stored_bytes, modified) = files.fold((0, None), |(bytes, modified), file| {
            (bytes + file.len(), file.modified().ok().max(modified))
        });
        found.push(SessionInfo { name, dir, stored_bytes, modified });
    }
    Ok(found)
}

/// Removes a session that is not in use.
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

/// Validates a session name and returns its directory.
fn session_dir(kv_dir: &Path, name: &str) -> Result<PathBuf, KvError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let valid =
        (1..=MAX_NAME_LEN).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with(['.', '-']);
    match valid {
        true => Ok(kv_dir.join("sessions").join(name)),
        false => Err(KvError::SessionName { name: name.to_owned() }),
    }
}
