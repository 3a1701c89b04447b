//! Integration tests of the public interface: one binary, one module per subject.

mod files;
mod prefixes;
mod records;
mod scratch;
mod sessions;
mod support;
mod transcode;
mod writer;
