//! Arbitrary bytes as a GGUF file: never a panic, and what is accepted keeps the promises of a header.
#![no_main]

#[path = "../../flash-convert/tests/it/header_oracle.rs"]
mod header_oracle;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    header_oracle::check(bytes);
});
