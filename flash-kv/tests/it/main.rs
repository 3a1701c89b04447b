//! The crate from outside: one binary, one module for each subject.

mod files;
mod prefixes;
mod records;
mod scratch;
mod sessions;
mod support;
mod transcode;
mod writer;
