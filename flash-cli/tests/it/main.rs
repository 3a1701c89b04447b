//! Tests of the program: its output and its exit status.

mod bad_input;
mod bench;
mod chat;
mod convert;
mod foreign;
mod gguf;
mod inspect;
mod interrupt;
mod many;
mod modelfile;
mod pack;
mod perplexity;
mod plan;
mod pull;
mod real_model;
mod run;
mod sessions;
mod snapshots;
mod support;
mod template;
mod usage;
