//! Contexts: what one sequence of tokens keeps.

use std::sync::Arc;

use flash_kv::Session;

use crate::ModelError;
use crate::engine::contexts::{Contexts, Region};
use crate::kv::{KvCache, PageSource, ParkedCache};

/// The tokens of one sequence, with their keys, values and recurrent states.
///
/// A context belongs to the [`Engine`](crate::Engine) that created it. It takes memory of the engine's budget from its first
/// pass on, and gives it back when it is [parked](Self::park) or dropped.
#[derive(Debug)]
pub struct Context {
    pub(super) cache: Cache,
    pub(super) contexts: Arc<Contexts>,
    /// The session that the context is saved in, and its pages.
    pub(super) session: Option<(Session, PageSource)>,
    /// The region of its pages on disk. Dropped after the cache, which writes to it.
    region: Region,
}

/// Where the tokens of a context are.
#[derive(Debug)]
pub(super) enum Cache {
    /// There are none.
    Empty,
    /// In memory, as planned.
    InMemory(Box<KvCache>),
    /// On disk.
    Parked(ParkedCache),
}

impl Context {
    /// Creates an empty context, which takes no memory yet.
    pub(super) fn new(contexts: &Arc<Contexts>) -> Self {
        let region = contexts.regions.take();
        Self { cache: Cache::Empty, contexts: Arc::clone(contexts), session: None, region }
    }

    /// Returns the tokens.
    pub fn held(&self) -> &[u32] {
        match &self.cache {
            Cache::Empty => &[],
            Cache::InMemory(kv) => kv.held(),
            Cache::Parked(parked) => parked.held(),
        }
    }

    /// Returns the number of tokens.
    pub fn held_tokens(&self) -> usize {
        self.held().len()
    }

    /// Returns the maximum number of tokens.
    pub fn max_tokens(&self) -> usize {
        self.contexts.max_tokens()
    }

    /// Whether the context takes no memory: it is empty and was never used, or was parked.
    pub fn is_parked(&self) -> bool {
        !matches!(self.cache, Cache::InMemory(_))
    }

    /// Moves keys, values and states to disk, and gives their memory back. Whatever needs them next reads them back, with the
    /// same bits. Tokens of a draft that were not kept are taken back.
    ///
    /// # Errors
    /// [`ModelError::Kv`] if the disk fails or is full; the context stays in memory then.
    pub fn park(&mut self) -> Result<(), ModelError> {
        if let Cache::InMemory(kv) = &mut self.cache {
            let parked = match kv.held_tokens() {
                0 => Cache::Empty,
                _ => Cache::Parked(kv.park(self.contexts.spool()?.writer())?),
            };
            self.cache = parked;
        }
        Ok(())
    }

    /// Returns the cache, in memory.
    ///
    /// # Errors
    /// [`ModelError::Kv`] or [`ModelError::Io`] if the budget has no room for another one, or the disk fails.
    pub(super) fn kv(&mut self) -> Result<&mut KvCache, ModelError> {
        if !matches!(self.cache, Cache::InMemory(_)) {
            let pages = self.session.as_ref().map(|(_, pages)| pages);
            let mut kv = Box::new(self.contexts.make_cache(&self.region, pages)?);
            if let Cache::Parked(parked) = &self.cache {
                kv.unpark(parked)?;
            }
            self.cache = Cache::InMemory(kv);
        }
        match &mut self.cache {
            Cache::InMemory(kv) => Ok(kv),
            _ => unreachable!("it was loaded above"),
        }
    }

    /// Creates a context with the tokens of this one. See [`Engine::fork`](crate::Engine::fork).
    pub(super) fn fork(&mut self) -> Result<Self, ModelError> {
        let mut fork = Self::new(&self.contexts);
        if self.held_tokens() > 0 {
            let own = self.kv()?;
            fork.kv()?.copy_from(own)?;
        }
        Ok(fork)
    }

    /// Returns the number of tokens of a [tentative](crate::Segment::is_tentative) segment that are neither kept nor taken
    /// back.
    pub fn tentative_tokens(&self) -> usize {
        match &self.cache {
            Cache::InMemory(kv) => kv.tentative_tokens(),
            _ => 0,
        }
    }

    /// Returns how many tokens a [tentative](crate::Segment::is_tentative) segment of this context may have now: at most a
    /// page, and if the cache consists of pages, at most what is left of its last one.
    pub fn tentative_room(&self) -> usize {
        let room = self.contexts.plan.tentative_room(self.held_tokens());
        room.min(self.max_tokens().saturating_sub(self.held_tokens()))
    }

    /// Keeps the first `n_tokens` of the tentative tokens, and takes back the others, without another pass: the context is
    /// as if those had never run.
    ///
    /// # Errors
    /// [`ModelError::Mlx`] if a recurrent state cannot be computed; the context is empty then.
    ///
    /// # Panics
    /// If there are fewer tentative tokens.
    pub fn commit(&mut self, n_tokens: usize) -> Result<(), ModelError> {
        match &mut self.cache {
            Cache::InMemory(kv) => kv.commit(n_tokens),
            _ => {
                assert_eq!(n_tokens, 0, "{n_tokens} of 0 tentative tokens");
                Ok(())
            }
        }
    }

    /// Truncates the context to its first `tokens` tokens, and returns how many are left.
    ///
    /// Removes all tokens if so much of a paged cache has left its window that the following logits would not have the
    /// same bits, if the cache [only grows](crate::KvPolicy::is_append_only) and tokens that the next one attends to
    /// are gone, or if layers have a recurrent state, which cannot be rewound.
    ///
    /// # Errors
    /// [`ModelError::Kv`] if the disk has failed, and errors of reading a parked context.
    pub fn truncate(&mut self, tokens: usize) -> Result<usize, ModelError> {
        match self.cache {
            Cache::Empty => Ok(0),
            // Pages of a session have to be removed from its file.
            Cache::Parked(_) if tokens == 0 && self.session.is_none() => {
                self.cache = Cache::Empty;
                Ok(0)
            }
            _ if tokens >= self.held_tokens() && self.tentative_tokens() == 0 => Ok(self.held_tokens()),
            _ => self.kv()?.truncate(tokens),
        }
    }

    /// # Panics
    /// If the context was created by another engine than that of `contexts`.
    pub(super) fn check_owner(&self, contexts: &Arc<Contexts>) {
        assert!(Arc::ptr_eq(contexts, &self.contexts), "a context of this engine");
    }

    /// Checks that there is room for `n_tokens` more tokens.
    pub(super) fn check_room(&self, n_tokens: usize) -> Result<(), ModelError> {
        let (prompt_tokens, context_tokens) = (self.held_tokens() + n_tokens, self.max_tokens());
        match prompt_tokens > context_tokens {
            true => Err(ModelError::PromptTooLong { prompt_tokens, context_tokens }),
            false => Ok(()),
        }
    }
}
