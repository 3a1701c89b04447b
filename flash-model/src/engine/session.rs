//! Sessions: contexts that outlive their engine.

use std::path::Path;
use std::sync::Arc;

use flash_kv::{Identity, KvError, OpenedSession, PageFile, Session};

use super::context::Cache;
use super::contexts::Contexts;
use super::{Context, Engine, EngineOptions};
use crate::ModelError;
use crate::engine::model::Model;
use crate::kv::{KvPolicy, PageSource, Stored, common_pages};

/// An open session that an [`Engine`] can resume with [`Model::resume`].
#[derive(Debug)]
pub struct SessionContext {
    session: Session,
    stored: Stored,
    resumption: Resumption,
}

/// The state from which a session resumes.
#[derive(Debug)]
pub enum Resumption {
    /// A new, empty session.
    New,
    /// The saved state.
    Saved {
        /// Whether the context has the same bits as if it had never stopped. If not, some tokens were once recovered
        /// from a crash with less precision, as [`Recovery`] reported then.
        is_exact: bool,
    },
    /// The whole pages left by a crash.
    Recovered(Box<Recovery>),
}

/// The outcome of recovering a session after a crash.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Recovery {
    /// Whether the recovered tokens have the bits they had before. If not, the most recent ones were in full precision
    /// before the crash and are now quantized.
    pub is_exact: bool,
    /// The reason why the last saved state is lost, if there was one no older than the recovered tokens.
    pub lost: Option<KvError>,
    /// The reason why pages after the recovered ones are lost, if there were any.
    pub dropped: Option<KvError>,
    /// Tokens whose pages are intact but unusable, because the recurrent states after them were not saved.
    pub tokens_without_state: usize,
}

impl Model {
    /// Opens or creates the session of that name in `kv_dir`, and locks it until it is dropped.
    ///
    /// # Errors
    /// [`ModelError::Rotates`] if the policy discards old tokens; [`ModelError::Kv`] if the session belongs to another
    /// model, has another storage format, is in use, or is unreadable.
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

    /// Loads the model as [`load`](Self::load) does, and resumes a session of it that was opened with the same policy.
    ///
    /// # Errors
    /// The errors of [`load`](Self::load); [`ModelError::SessionTooLong`] if the session does not fit into the
    /// workload's context.
    ///
    /// # Panics
    /// If the session was opened with another policy.
    pub fn resume(self, options: &EngineOptions, context: SessionContext) -> Result<Engine, ModelError> {
        self.load_with(options, Some(context))
    }
}

impl SessionContext {
    fn new(opened: OpenedSession, has_state: bool) -> Result<Self, ModelError> {
        let OpenedSession { session, sealed, saved, lost } = opened;
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

    /// Returns the tokens of the resumed context.
    pub fn token_ids(&self) -> &[u32] {
        &self.stored.token_ids
    }

    /// Returns the state from which the session resumes.
    pub fn resumption(&self) -> &Resumption {
        &self.resumption
    }

    /// Returns the directory of the session. Callers may store files there whose names do not begin with `tail-`.
    pub fn dir(&self) -> &Path {
        self.session.dir()
    }

    pub(super) fn pages(&self) -> &Arc<PageFile> {
        self.session.pages()
    }

    /// Checks that the session fits into the planned cache.
    pub(super) fn check(&self, identity: &Identity, context_tokens: usize) -> Result<(), ModelError> {
        assert_eq!(
            self.pages().identity(),
            identity,
            "a session is resumed with the policy it was opened with"
        );
        fits(&self.stored, context_tokens)
    }

    /// Restores the session into an empty context that stores its pages in the session's own file, `pages`.
    pub(super) fn restore_own(self, mut context: Context, pages: PageSource) -> Result<Context, ModelError> {
        let Self { session, stored, .. } = self;
        context.session = Some((session, pages));
        let kv = context.kv()?;
        fits(&stored, kv.context_tokens())?;
        kv.restore(&stored, true)?;
        // Records the loss of precision now: it could not be detected any more once there are further pages.
        if !stored.is_saved() && !stored.is_exact() {
            context.save()?;
        }
        Ok(context)
    }
}

fn fits(stored: &Stored, context_tokens: usize) -> Result<(), ModelError> {
    let session_tokens = stored.token_ids.len();
    match session_tokens <= context_tokens {
        true => Ok(()),
        false => Err(ModelError::SessionTooLong { session_tokens, context_tokens }),
    }
}

impl Context {
    /// Saves the context in the session that it was resumed from, if there is one. The previously saved state stays valid
    /// until this returns.
    ///
    /// # Errors
    /// [`ModelError::Kv`] if the disk fails or has failed.
    pub fn save(&mut self) -> Result<(), ModelError> {
        if self.session.is_none() {
            return Ok(());
        }
        self.kv()?;
        match (&mut self.cache, &mut self.session) {
            (Cache::InMemory(kv), Some((session, _))) => kv.save(session),
            _ => unreachable!("both are there"),
        }
    }

    /// Saves a copy of the context as the session of that name in the engine's `kv_dir`, replacing its contents. Calls
    /// `describe` with the directory of the session while it is locked.
    ///
    /// # Errors
    /// The errors of [`Model::open_session`] and `describe`; [`ModelError::Kv`] if the disk fails.
    pub fn save_as<T, E: From<ModelError>>(
        &mut self,
        name: &str,
        describe: impl FnOnce(&Path) -> Result<T, E>,
    ) -> Result<T, E> {
        let (mut session, common) = self.session_named(name)?;
        // The description is written first: tokens that it has and the pages lack are computed again, so none is lost.
        let described = describe(session.dir())?;
        self.kv()?.save_to(&mut session, common)?;
        Ok(described)
    }

    /// Opens or creates the session of that name, and returns it with the number of pages that it shares with the
    /// context.
    fn session_named(&self, name: &str) -> Result<(Session, usize), ModelError> {
        let contexts = &self.contexts;
        let identity = contexts.session_identity()?;
        Ok(match Session::open(&contexts.kv_dir, name, &identity) {
            Ok(opened) => {
                let common = common_pages(&opened, self.held());
                (opened.session, common)
            }
            Err(KvError::NoSession { .. }) => (Session::create(&contexts.kv_dir, name, &identity)?, 0),
            Err(error) => return Err(error.into()),
        })
    }

    /// Replaces the context with a copy of the context of the session of that name. Calls `describe` with the directory
    /// of the session while it is locked.
    ///
    /// # Errors
    /// The errors of `describe`; [`ModelError::Kv`] if there is no such session, or it belongs to another model, or
    /// cannot be read; [`ModelError::SessionTooLong`] if it does not fit, which leaves the context unchanged.
    pub fn take_from<T, E: From<ModelError>>(
        &mut self,
        name: &str,
        describe: impl FnOnce(&Path) -> Result<T, E>,
    ) -> Result<(T, Resumption), E> {
        let identity = self.contexts.session_identity()?;
        let opened = Session::open(&self.contexts.kv_dir, name, &identity).map_err(ModelError::from)?;
        let context = SessionContext::new(opened, self.kv()?.has_state())?;
        fits(&context.stored, self.max_tokens())?;
        let described = describe(context.dir())?;
        self.kv()?.restore(&context.stored, false)?;
        Ok((described, context.resumption))
    }
}

impl Contexts {
    /// Returns the identity of sessions, and computes it if this is the first use.
    ///
    /// # Errors
    /// [`ModelError::Rotates`] if contexts discard old tokens; the errors of reading the model.
    fn session_identity(&self) -> Result<Identity, ModelError> {
        match self.rotates {
            true => Err(ModelError::Rotates { what: "a session" }),
            false => self.identity.lock().get(),
        }
    }
}

impl Engine {
    /// [Saves](Context::save) the engine's own context in its session, if it has one.
    ///
    /// # Errors
    /// The errors of [`Context::save`].
    pub fn save(&mut self) -> Result<(), ModelError> {
        self.own().save()
    }

    /// [Saves](Context::save_as) a copy of the engine's own context as a session.
    ///
    /// # Errors
    /// The errors of [`Context::save_as`].
    pub fn save_as<T, E: From<ModelError>>(
        &mut self,
        name: &str,
        describe: impl FnOnce(&Path) -> Result<T, E>,
    ) -> Result<T, E> {
        self.own().save_as(name, describe)
    }

    /// [Replaces](Context::take_from) the engine's own context with a copy of a session's.
    ///
    /// # Errors
    /// The errors of [`Context::take_from`].
    pub fn take_from<T, E: From<ModelError>>(
        &mut self,
        name: &str,
        describe: impl FnOnce(&Path) -> Result<T, E>,
    ) -> Result<(T, Resumption), E> {
        self.own().take_from(name, describe)
    }
}
