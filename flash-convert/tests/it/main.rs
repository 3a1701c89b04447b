//! Tests of flash-convert, in one binary so that they share the builder of GGUF files.
#![expect(clippy::print_stderr, reason = "tests that cannot run say why")]

mod architectures;
mod blocks;
mod builder;
mod convert;
mod converted;
mod failures;
mod fuzz_corpus;
mod header;
mod header_oracle;
mod pack;
mod quantized;
mod real_model;
mod refusals;
mod split;
mod tiny;
mod tokenizer;
