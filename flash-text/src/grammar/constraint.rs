//! The state of a text that follows a grammar.

use std::fmt;
use std::sync::Arc;

use llguidance::Matcher;
use llguidance::api::StopReason;
use llguidance::toktrie::SimpleVob;

use super::source::reason;
use crate::error::TextError;

/// A text that follows a grammar, as far as it is generated.
///
/// A clone is a state of its own, as a draft needs; [`rollback`](Self::rollback) returns to an earlier state.
#[derive(Clone)]
pub struct Constraint {
    matcher: Matcher,
    vocabulary: Arc<VocabularyInfo>,
    n_accepted: usize,
    /// Whether the last token is an end that followed a text which had to stop. The matcher has not seen it.
    has_end: bool,
}

/// The part of a vocabulary that constraints need.
#[derive(Debug)]
pub(super) struct VocabularyInfo {
    pub(super) n_tokens: usize,
    pub(super) eos_ids: Vec<u32>,
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").field("n_accepted", &self.n_accepted).finish_non_exhaustive()
    }
}

impl Constraint {
    pub(super) fn new(matcher: Matcher, vocabulary: &Arc<VocabularyInfo>) -> Self {
        Self { matcher, vocabulary: Arc::clone(vocabulary), n_accepted: 0, has_end: false }
    }

    /// Computes the set of tokens that may come next. It takes from some microseconds to a few milliseconds.
    ///
    /// End-of-sequence tokens are in it where the text [may stop](Self::may_stop), and alone where it
    /// [must](Self::must_stop). Where the grammar leaves a single continuation, only the token that the tokenizer would
    /// choose for it is allowed.
    ///
    /// # Errors
    /// [`TextError::GrammarState`] if the grammar is too ambiguous to be followed.
    pub fn mask(&mut self) -> Result<TokenMask, TextError> {
        let bits = self.matcher.compute_mask_or_eos().map_err(failed)?;
        Ok(TokenMask { bits, n_tokens: self.vocabulary.n_tokens })
    }

    /// Adds a token to the text. Other spellings of an allowed text are accepted, too.
    ///
    /// # Errors
    /// [`TextError::GrammarToken`] if the grammar does not allow the token; the state is then unchanged.
    /// [`TextError::GrammarState`] if the grammar is too ambiguous to be followed.
    pub fn accept(&mut self, token: u32) -> Result<(), TextError> {
        match self.accept_all(&[token])? {
            0 => Err(TextError::GrammarToken { token, n_accepted: self.n_accepted }),
            _ => Ok(()),
        }
    }

    /// Adds tokens up to the first that is not allowed, and returns their number.
    ///
    /// # Errors
    /// [`TextError::GrammarState`] if the grammar is too ambiguous to be followed.
    pub fn accept_all(&mut self, tokens: &[u32]) -> Result<usize, TextError> {
        let is_known = |&token: &u32| (token as usize) < self.vocabulary.n_tokens;
        let n_known = tokens.iter().take_while(|token| is_known(token)).count();
        let mut n_accepted = self.matcher.try_consume_tokens(&tokens[..n_known]).map_err(failed)?;
        let is_end = tokens.get(n_accepted).is_some_and(|token| self.vocabulary.eos_ids.contains(token));
        if is_end
            && self.must_stop()
            && !self.has_end
            && self.matcher.stop_reason() != StopReason::EndOfSentence
        {
            self.has_end = true;
            n_accepted += 1;
        }
        self.n_accepted += n_accepted;
        Ok(n_accepted)
    }

    /// Removes the last `n_tokens` tokens.
    ///
    /// # Panics
    /// If there are fewer.
    ///
    /// # Errors
    /// [`TextError::GrammarState`] if an earlier call failed.
    pub fn rollback(&mut self, n_tokens: usize) -> Result<(), TextError> {
        assert!(n_tokens <= self.n_accepted, "{n_tokens} of {} tokens cannot be removed", self.n_accepted);
        let n_seen = n_tokens - usize::from(self.has_end && n_tokens > 0);
        self.matcher.rollback(n_seen).map_err(failed)?;
        self.has_end &= n_tokens == 0;
        self.n_accepted -= n_tokens;
        Ok(())
    }

    /// Returns the number of tokens that were added.
    pub fn n_accepted(&self) -> usize {
        self.n_accepted
    }

    /// Returns the tokens that must come next, as the tokenizer spells them: drafts that need no model. They are not
    /// added.
    pub fn forced_tokens(&mut self) -> Vec<u32> {
        if self.must_stop() { Vec::new() } else { self.matcher.compute_ff_tokens() }
    }

    /// Returns whether the text is complete, so that it may end here.
    pub fn may_stop(&mut self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error() || self.matcher.is_accepting().unwrap_or(false)
    }

    /// Returns whether nothing but the end can follow.
    pub fn must_stop(&self) -> bool {
        self.matcher.is_stopped()
    }
}

fn failed<E: ToString>(error: E) -> TextError {
    TextError::GrammarState { reason: reason(error) }
}

/// A set of tokens.
#[derive(Clone)]
pub struct TokenMask {
    bits: SimpleVob,
    n_tokens: usize,
}

impl TokenMask {
    /// Returns whether a token is in the set. Ids beyond the vocabulary are not.
    pub fn allows(&self, token: u32) -> bool {
        (token as usize) < self.n_tokens && self.bits.is_allowed(token)
    }

    /// Returns the tokens of the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.bits.iter().filter(|&token| (token as usize) < self.n_tokens)
    }

    /// Returns the set as bits: token `i` is bit `i % 32` of word `i / 32`. A word may have bits beyond the vocabulary.
    pub fn words(&self) -> &[u32] {
        self.bits.as_slice()
    }
}

impl fmt::Debug for TokenMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenMask").field("n_allowed", &self.iter().count()).finish_non_exhaustive()
    }
}
