//! Contexts that outlive the engine.

use std::path::Path;
use std::sync::Arc;

use flash_kv::{Identity, KvError, Opened, PageFile, Session};

use super::{Engine, EngineOptions};
use crate::ModelError;
use crate::engine::model::Model;
use crate::kv::{KvCache, KvPolicy, Stored, common_pages};

/// A session that was opened, for an [`Engine`] to go on with: see [`Model::resume`].
#[derive(Debug)]
pub struct SessionContext {
    session: Session,
    stored: Stored,
    resumption: Resumption,
}

/// How a session goes on.
#[derive(Debug)]
pub enum Resumption {
    /// It begins.
    New,
    /// As it was saved.
    Saved {
        /// Whether that is with the same bits as if it had never stopped. If not, some tokens were once recovered from a crash
        /// with less precision, as [`Recovery`] told then.
        is_exact: bool,
    },
    /// With the whole pages that a crash has left.
    Recovered(Box<Recovery>),
}

/// What is known of a crash.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Recovery {
    /// Whether what is left has the bits that it had. If not, the most recent tokens were seen in full precision before and are
    /// known as far as they were quantised.
    pub is_exact: bool,
    /// Why the state that was saved last is lost, if there was one and it is not older than what is left.
    pub lost: Option<KvError>,
    /// Why pages behind are lost, if there were any.
    pub dropped: Option<KvError>,
    /// Tokens whose pages are whole and of no use: what layers that keep a state had of them was not saved.
    pub tokens_without_state: usize,
}

impl Model {
    /// Opens the session of that name below `kv_dir`, or begins it. Nobody else can use it until it is dropped.
    ///
    /// # Errors
    /// [`ModelError::Rotates`] if the policy gives up tokens; [`ModelError::Kv`] if the session is another model's, kept in
    /// another way, in use, or unreadable.
    pub fn open_session(
        &self,
        kv_dir: &Path,
        name: &str,
        policy: &KvPolicy,
    ) -> Result<SessionContext, ModelError> {
        if policy.rotates() {
            return Err(ModelError::Rotates { what: "a session" });
        }
        let identity = self.identity(kv_dir, policy)?;
        match Session::open(kv_dir, name, &identity) {
            Ok(opened) => SessionContext::new(opened, self.state_bytes() > 0),
            Err(KvError::NoSession { .. }) => {
                let session = Session::create(kv_dir, name, &identity)?;
                let stored = Stored::longest(&session, &[], None, false)?;
                Ok(SessionContext { session, stored, resumption: Resumption::New })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// As [`load`](Self::load), and goes on with a session of this model, which was opened with the same policy.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`ModelError::SessionTooLong`] if the workload has no room for it.
    ///
    /// # Panics
    /// If the session was opened with another policy.
    pub fn resume(self, options: &EngineOptions, context: SessionContext) -> Result<Engine, ModelError> {
        self.load_with(options, Some(context))
    }
}

impl SessionContext {
    fn new(opened: Opened, has_state: bool) -> Result<Self, ModelError> {
        let Opened { session, sealed, saved, lost } = opened;
        let was_saved = saved.is_some() || lost.is_some();
        let stored = Stored::longest(&session, &sealed.token_ids, saved, has_state)?;
        let resumption = if stored.is_saved() {
            Resumption::Saved { is_exact: stored.is_exact() }
        } else if stored.token_ids.is_empty()
            && !was_saved
            && sealed.dropped.is_none()
            && stored.tokens_without_state == 0
        {
            Resumption::New
        } else {
            let is_exact = stored.is_exact();
            let tokens_without_state = stored.tokens_without_state;
            Resumption::Recovered(Box::new(Recovery {
                is_exact,
                lost,
                dropped: sealed.dropped,
                tokens_without_state,
            }))
        };
        Ok(Self { session, stored, resumption })
    }

    /// The tokens that are held when it goes on.
    pub fn token_ids(&self) -> &[u32] {
        &self.stored.token_ids
    }

    /// How it goes on.
    pub fn resumption(&self) -> &Resumption {
        &self.resumption
    }

    /// The directory of the session. Others may keep files there whose names do not begin with `tail-`.
    pub fn dir(&self) -> &Path {
        self.session.dir()
    }

    pub(super) fn pages(&self) -> &Arc<PageFile> {
        self.session.pages()
    }

    /// Whether the cache that is planned can take it.
    pub(super) fn check(&self, identity: &Identity, context_tokens: usize) -> Result<(), ModelError> {
        assert_eq!(self.pages().identity(), identity, "a session is opened as it is gone on with");
        fits(&self.stored, context_tokens)
    }

    /// Goes on with it, in a cache whose pages are its own.
    pub(super) fn restore_own(mut self, kv: &mut KvCache) -> Result<Session, ModelError> {
        fits(&self.stored, kv.context_tokens())?;
        kv.restore(&self.stored, true)?;
        // What a crash cost is known now, and would not be when there are more pages.
        if !self.stored.is_saved() && !self.stored.is_exact() {
            kv.save(&mut self.session)?;
        }
        Ok(self.session)
    }
}

fn fits(stored: &Stored, context_tokens: usize) -> Result<(), ModelError> {
    let session_tokens = stored.token_ids.len();
    match session_tokens <= context_tokens {
        true => Ok(()),
        false => Err(ModelError::SessionTooLong { session_tokens, context_tokens }),
    }
}

impl Engine {
    /// Saves the context in the session that the engine goes on with, if there is one. Until it returns, the state that was
    /// saved before is the one that counts.
    ///
    /// # Errors
    /// [`ModelError::Kv`] if the disk fails or has failed.
    pub fn save(&mut self) -> Result<(), ModelError> {
        match &mut self.session {
            Some(session) => self.kv.save(session),
            None => Ok(()),
        }
    }

    /// Saves a copy of the context as the session of that name below the engine's `kv_dir`, in place of what that held; gives
    /// the directory of the session to `describe`, while nobody else can use it.
    ///
    /// # Errors
    /// As [`Model::open_session`]; [`ModelError::Kv`] if the disk fails; whatever `describe` says.
    pub fn save_as<T, E: From<ModelError>>(
        &mut self,
        name: &str,
        describe: impl FnOnce(&Path) -> Result<T, E>,
    ) -> Result<T, E> {
        let (mut session, common) = self.session_named(name)?;
        // First: tokens that it says and the pages have not are passed again, and none is lost.
        let described = describe(session.dir())?;
        self.kv.save_to(&mut session, common)?;
        Ok(described)
    }

    /// That session, and how many of its pages are those of the context.
    fn session_named(&mut self, name: &str) -> Result<(Session, usize), ModelError> {
        if self.rotates {
            return Err(ModelError::Rotates { what: "a session" });
        }
        let identity = self.identity.get()?;
        Ok(match Session::open(&self.kv_dir, name, &identity) {
            Ok(opened) => {
                let common = common_pages(&opened, self.held());
                (opened.session, common)
            }
            Err(KvError::NoSession { .. }) => (Session::create(&self.kv_dir, name, &identity)?, 0),
            Err(error) => return Err(error.into()),
        })
    }

    /// Takes a copy of the context of the session of that name, in place of what is held; gives the directory of the session to
    /// `describe`, while nobody else can use it.
    ///
    /// # Errors
    /// [`ModelError::Kv`] if there is no such session, or it is not one of this model, or cannot be read;
    /// [`ModelError::SessionTooLong`] if there is no room for it: then what is held stays.
    pub fn take_from<T, E: From<ModelError>>(
        &mut self,
        name: &str,
        describe: impl FnOnce(&Path) -> Result<T, E>,
    ) -> Result<(T, Resumption), E> {
        if self.rotates {
            return Err(ModelError::Rotates { what: "a session" }.into());
        }
        let identity = self.identity.get()?;
        let opened = Session::open(&self.kv_dir, name, &identity).map_err(ModelError::from)?;
        let context = SessionContext::new(opened, self.kv.has_state())?;
        fits(&context.stored, self.context_tokens)?;
        let described = describe(context.dir())?;
        self.kv.restore(&context.stored, false)?;
        Ok((described, context.resumption))
    }
}
