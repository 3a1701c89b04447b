//! Arbitrary bytes as a safetensors file: never a panic, and never another verdict than that of the
//! `safetensors` crate.
#![no_main]

#[path = "../../flash-io/tests/it/oracle.rs"]
mod oracle;

use std::io;

use flash_io::ReadAt;
use libfuzzer_sys::fuzz_target;

#[derive(Debug)]
struct Input(Vec<u8>);

impl ReadAt for Input {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn alignment(&self) -> usize {
        1
    }
}

fuzz_target!(|bytes: &[u8]| oracle::check(&Input(bytes.to_vec()), bytes));
