//! The bytes of the tokens of a vocabulary.

use std::fmt;
use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use super::source::reason;
use crate::error::TextError;
use crate::stage::{self, Stage};
use crate::tokenizer::Tokenizer;

/// Text of the token that ends an answer where the tokenizer has none.
const END: &str = "<|end of answer|>";

/// Longest token of llguidance's trie.
const MAX_TOKEN_BYTES: usize = 255;

/// A text that no vocabulary merges with others, before which a tokenizer may add a space.
const GUARD: &str = "\u{1}";

/// The vocabulary of a tokenizer, by bytes.
///
/// Special tokens are no text: a grammar cannot contain them, except by name. Byte-fallback tokens and the tokens of
/// byte-level vocabularies are bytes, so that characters may be spelled by several tokens.
pub(super) struct Vocabulary {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
    n_tokens: usize,
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vocabulary").field("n_tokens", &self.trie.vocab_size()).finish_non_exhaustive()
    }
}

impl Vocabulary {
    /// Reads the bytes of all tokens.
    ///
    /// # Errors
    /// [`TextError::GrammarVocabulary`] if the text of a token depends on the tokens around it.
    pub(super) fn new(tokenizer: &Arc<Tokenizer>) -> Result<Self, TextError> {
        let refused = |reason| TextError::GrammarVocabulary { path: tokenizer.path().to_owned(), reason };
        let stages = stage::stages(tokenizer.decoder())
            .filter(|stages| !stages.iter().any(|stage| matches!(stage, Stage::Join { .. })))
            .ok_or_else(|| refused("the text of a token depends on the tokens around it"))?;
        let n_tokens = tokenizer.max_id().map_or(0, |id| id as usize + 1);
        let mut words = Vec::with_capacity(n_tokens + 1);
        for id in 0..u32::try_from(n_tokens).unwrap_or(u32::MAX) {
            words.push(match (tokenizer.special_token(id), tokenizer.decoded_token(id)) {
                (Some(token), _) => special(&token),
                (None, Some(token)) => {
                    stage::token_bytes(&stages, token).map_err(|error| tokenizer.decode_error(1, error))?
                }
                (None, None) => Vec::new(),
            });
        }
        let mut ends: Vec<TokenId> =
            tokenizer.eos_ids().iter().copied().filter(|&id| (id as usize) < words.len()).collect();
        if ends.is_empty() {
            ends.push(u32::try_from(words.len()).map_err(|_| refused("it has too many tokens"))?);
            words.push(special(END));
        }
        // The trie cannot hold longer tokens, such as runs of spaces: they are never allowed.
        words.iter_mut().filter(|word| word.len() > MAX_TOKEN_BYTES).for_each(Vec::clear);
        let vocab_size = u32::try_from(words.len()).map_err(|_| refused("it has too many tokens"))?;
        let info = TokRxInfo::new(vocab_size, ends[0]);
        Ok(Self {
            tokenizer: Arc::clone(tokenizer),
            n_tokens,
            trie: TokTrie::from(&info, &words).with_eos_tokens(&ends),
        })
    }

    /// Returns the number of ids, with those that no token has.
    pub(super) fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Encodes text as it continues other text.
    fn encode(&self, text: &str) -> Vec<TokenId> {
        let is_exact = |ids: &[TokenId]| self.trie.decode_raw(ids) == text.as_bytes();
        if let Ok(ids) = self.tokenizer.encode(text, false)
            && is_exact(&ids)
        {
            return ids;
        }
        // Tokenizers of SentencePiece add a space before the text.
        if let Ok(ids) = self.tokenizer.encode(&format!("{GUARD}{text}"), false) {
            let guards =
                (1..ids.len()).take(3).find(|&n| self.trie.decode_raw(&ids[..n]).ends_with(GUARD.as_bytes()));
            if let Some(ids) = guards.map(|n| &ids[n..]).filter(|ids| is_exact(ids)) {
                return ids.to_vec();
            }
        }
        // A text with special tokens written out, or one that the tokenizer normalizes.
        self.trie.greedy_tokenize(text.as_bytes())
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| self.encode(text))
    }
}

/// Returns the bytes of a special token: no text contains them, since they are not UTF-8.
fn special(token: &str) -> Vec<u8> {
    let mut bytes = vec![TokTrie::SPECIAL_TOKEN_MARKER];
    bytes.extend(token.as_bytes());
    bytes
}

/// Creates the part of a compiler that grammars share.
///
/// # Errors
/// The message of llguidance.
pub(super) fn new_factory(env: &TokEnv) -> Result<ParserFactory, String> {
    let mut factory = ParserFactory::new_simple(env).map_err(reason)?;
    // Nothing is printed, and errors do not contain the text and the grammar.
    factory.quiet();
    factory.limits_mut().verbose_errors = false;
    Ok(factory)
}
