//! The program as a person runs it: what it prints, and how it exits.

mod bad_input;
mod bench;
mod chat;
mod convert;
mod foreign;
mod inspect;
mod interrupt;
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
mod usage;
