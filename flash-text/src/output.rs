//! Splits generated text into visible text, reasoning and tool calls.
//!
//! Models write reasoning and tool calls into their text, each family in a format of its own. [`OutputFormat::detect`]
//! finds the formats of a model from its chat template and its vocabulary, and an [`OutputParser`] takes the text as it
//! is generated and returns [`Piece`]s.
//!
//! ```
//! use flash_text::output::{OutputFormat, OutputParser, ParserOptions, Piece};
//!
//! let template = "<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>";
//! let format = OutputFormat::detect(template, |token| token == "<think>" || token == "</think>");
//! let mut parser = OutputParser::new(format, &[], ParserOptions::default());
//! let mut pieces = parser.push("<think>Which one?</think>\n\nThe Rhine.<tool_call>{\"name\": \"map\", ");
//! pieces.extend(parser.push("\"arguments\": {\"river\": \"Rhine\"}}</tool_call>"));
//! pieces.extend(parser.finish());
//! let expected = [
//!     Piece::Reasoning("Which one?".into()),
//!     Piece::Text("The Rhine.".into()),
//!     Piece::CallStart { name: "map".into(), id: None },
//!     Piece::CallArguments("{\"river\": \"Rhine\"}".into()),
//!     Piece::CallEnd,
//! ];
//! assert_eq!(Piece::merge(pieces), expected);
//! ```
//!
//! # Guarantees
//!
//! - The merged pieces ([`Piece::merge`]) do not depend on how the text is cut into pushes.
//! - Nothing is lost: each byte of the input is in a piece, in a marker of the format, or is white space next to a
//!   marker.
//! - Text that only starts like a call is text. A call that is malformed or cut off is a [`Piece::Broken`] with its
//!   text and the reason.
//! - The arguments of a call are the text of a JSON object that every JSON parser accepts, with the parameters in the
//!   model's order. Arguments that the model writes as JSON are passed on as they come; those of other syntaxes are
//!   converted and come at once.
//! - The time for a character does not depend on the length of the text.

mod arguments;
mod call;
mod coerce;
mod deepseek;
mod dsml;
mod envelope;
mod format;
mod gemma;
mod glm;
mod harmony;
mod hermes;
mod json;
mod kimi;
mod llama;
mod mistral;
mod parser;
mod piece;
mod sink;
mod xml;

pub use format::{CallFormat, OutputFormat, ReasoningFormat};
pub use parser::{OutputParser, ParserOptions};
pub use piece::{BrokenCall, Piece, ToolSchema};
