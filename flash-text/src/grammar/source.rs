//! Grammars, before they are compiled for a vocabulary.

use llguidance::Matcher;
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::toktrie::ApproximateTokEnv;
use serde_json::{Value, json};

use super::locate::schema_error;
use super::schema::Prepared;
use super::vocabulary::new_factory;
use crate::error::TextError;

/// White space that may stand between the parts of generated JSON: none, a space, or a line break with indentation.
/// Without a limit, a small model may never leave it.
const WHITE_SPACE: &str = r"[ \t]|\r?\n[ \t]{0,40}";

/// A grammar that generated text must follow, known to be valid.
#[derive(Clone, Debug)]
pub struct Grammar(TopLevelGrammar);

impl Grammar {
    /// Creates the grammar of the JSON texts that are valid by a schema. [The module](super) lists the keywords.
    ///
    /// # Errors
    /// [`TextError::SchemaKeyword`] if the schema has a keyword that grammars do not support, [`TextError::Schema`] if
    /// it is invalid, too large, or no text can be valid; both name the place as a JSON pointer.
    pub fn json_schema(schema: &Value) -> Result<Self, TextError> {
        let prepared = Prepared::new(schema)?;
        let grammar = from_schema(prepared.schema.clone());
        match check(&grammar) {
            Ok(()) => Ok(Self(grammar)),
            Err(error) => Err(schema_error(&prepared, error)),
        }
    }

    /// Creates the grammar of JSON objects.
    ///
    /// # Errors
    /// The errors of [`json_schema`](Self::json_schema); none are known.
    pub fn json_object() -> Result<Self, TextError> {
        Self::json_schema(&json!({"type": "object"}))
    }

    /// Creates the grammar of the texts that a regular expression matches as a whole, in the syntax of the Rust crate
    /// regex, without anchors, look-around and lazy repetition.
    ///
    /// # Errors
    /// [`TextError::Grammar`] if it is invalid.
    pub fn regex(pattern: &str) -> Result<Self, TextError> {
        Self::checked("regular expression", TopLevelGrammar::from_regex(pattern))
    }

    /// Creates a grammar in Lark's syntax, as llguidance extends it.
    ///
    /// # Errors
    /// [`TextError::Grammar`] if it is invalid.
    pub fn lark(grammar: &str) -> Result<Self, TextError> {
        Self::checked("Lark grammar", TopLevelGrammar::from_lark(grammar.to_owned()))
    }

    fn checked(kind: &'static str, grammar: TopLevelGrammar) -> Result<Self, TextError> {
        match check(&grammar) {
            Ok(()) => Ok(Self(grammar)),
            Err(reason) => Err(TextError::Grammar { kind, reason }),
        }
    }

    pub(super) fn inner(&self) -> TopLevelGrammar {
        self.0.clone()
    }
}

/// Returns the grammar of a prepared schema.
pub(super) fn from_schema(schema: Value) -> TopLevelGrammar {
    let schema = match schema {
        Value::Object(mut schema) => {
            // The compiler takes its options from this keyword.
            schema.insert("x-guidance".to_owned(), json!({"whitespace_pattern": WHITE_SPACE}));
            Value::Object(schema)
        }
        other => other,
    };
    TopLevelGrammar::from_grammar(GrammarWithLexer::from_json_schema(schema))
}

/// Compiles a grammar for a vocabulary of single bytes, and starts to follow it.
///
/// # Errors
/// The reason why it is refused.
pub(super) fn check(grammar: &TopLevelGrammar) -> Result<(), String> {
    let factory = new_factory(&ApproximateTokEnv::single_byte_env())?;
    let parser = factory.create_parser(grammar.clone()).map_err(reason)?;
    // Some grammars without any text, such as a schema that refers to itself, compile.
    let mut matcher = Matcher::new(Ok(parser));
    matcher
        .compute_mask_or_eos()
        .map(|_| ())
        .map_err(|error| format!("no text can follow it ({})", reason(error)))
}

/// Returns the message of an error of llguidance: its first line, since the state of the parser follows.
#[expect(clippy::needless_pass_by_value, reason = "the shape of an argument of map_err")]
pub(super) fn reason<E: ToString>(error: E) -> String {
    error.to_string().lines().next().unwrap_or_default().trim().to_owned()
}
