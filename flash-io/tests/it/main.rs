//! Integration tests: one binary, one module for each subject.

mod catalog;
#[cfg(feature = "testing")]
mod faults;
mod fuzz_corpus;
mod guesses;
mod header;
mod oracle;
mod probe;
mod reader;
#[cfg(feature = "testing")]
mod recovery;
#[cfg(target_os = "linux")]
mod ring;
mod support;
