//! Compilation of grammars for a vocabulary.

use std::fmt;
use std::sync::Arc;

use llguidance::toktrie::TokEnv;
use llguidance::{Matcher, ParserFactory};

use super::constraint::{Constraint, VocabularyInfo};
use super::source::{Grammar, reason};
use super::vocabulary::{Vocabulary, new_factory};
use crate::error::TextError;
use crate::tokenizer::Tokenizer;

/// Compiles grammars for the vocabulary of a tokenizer. Create one a model: it takes about as long as opening the
/// tokenizer.
pub struct GrammarCompiler {
    factory: ParserFactory,
    vocabulary: Arc<VocabularyInfo>,
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarCompiler").field("vocabulary", &self.vocabulary).finish_non_exhaustive()
    }
}

impl GrammarCompiler {
    /// Creates a compiler for the vocabulary of a tokenizer. Answers end with its end-of-sequence tokens.
    ///
    /// # Errors
    /// [`TextError::GrammarVocabulary`] if the text of a token depends on the tokens around it, as for WordPiece.
    pub fn new(tokenizer: &Arc<Tokenizer>) -> Result<Self, TextError> {
        let vocabulary = Vocabulary::new(tokenizer)?;
        let info = VocabularyInfo { n_tokens: vocabulary.n_tokens(), eos_ids: tokenizer.eos_ids().to_vec() };
        let env: TokEnv = Arc::new(vocabulary);
        let factory = new_factory(&env).map_err(|reason| TextError::GrammarState { reason })?;
        Ok(Self { factory, vocabulary: Arc::new(info) })
    }

    /// Compiles a grammar, for text from its start.
    ///
    /// # Errors
    /// [`TextError::GrammarState`] if the grammar is too large for this vocabulary, or names a special token that it does
    /// not have.
    pub fn compile(&self, grammar: &Grammar) -> Result<Constraint, TextError> {
        let parser = self
            .factory
            .create_parser(grammar.inner())
            .map_err(|error| TextError::GrammarState { reason: reason(error) })?;
        Ok(Constraint::new(Matcher::new(Ok(parser)), &self.vocabulary))
    }
}
