//! Grammars that generated text must follow.
//!
//! A [`Grammar`] is a JSON schema, a regular expression or a Lark grammar. A [`GrammarCompiler`] compiles it for the
//! vocabulary of a model, and the resulting [`Constraint`] says which tokens may come next. llguidance does the
//! parsing.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use flash_text::Tokenizer;
//! use flash_text::grammar::{Grammar, GrammarCompiler};
//!
//! # fn next_token(_: &flash_text::grammar::TokenMask) -> u32 { 0 }
//! # fn main() -> Result<(), flash_text::TextError> {
//! let tokenizer = Arc::new(Tokenizer::open(std::path::Path::new("SmolLM2-135M-Instruct"))?);
//! let compiler = GrammarCompiler::new(&tokenizer)?;
//! let schema = serde_json::json!({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]});
//! let mut constraint = compiler.compile(&Grammar::json_schema(&schema)?)?;
//! while !constraint.must_stop() {
//!     let token = next_token(&constraint.mask()?); // The model's part.
//!     constraint.accept(token)?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # JSON schemas
//!
//! Keywords of drafts 4 to 2020-12 that are followed: `type`, `enum`, `const`, `allOf`, `anyOf`, `oneOf` (of
//! alternatives that cannot hold at once, such as objects with different constants), `$ref` within the schema,
//! `properties`, `required`, `additionalProperties`, `patternProperties`, `minProperties`, `maxProperties`, `items`,
//! `prefixItems`, `additionalItems`, `minItems`, `maxItems`, `minLength`, `maxLength`, `pattern`, `format`, `minimum`,
//! `maximum`, `exclusiveMinimum`, `exclusiveMaximum` and `multipleOf`. A schema with another keyword of these drafts is
//! an error that names it and its place; annotations, which other words are by the specification, are ignored.
//!
//! Generated text is valid. Not every valid text is generated: objects have their properties in the order of the schema, and
//! white space is limited, so that a model cannot fill its answer with it.

mod compiler;
mod constraint;
mod locate;
mod reference;
mod schema;
mod source;
mod vocabulary;

pub use compiler::GrammarCompiler;
pub use constraint::{Constraint, TokenMask};
pub use source::Grammar;
