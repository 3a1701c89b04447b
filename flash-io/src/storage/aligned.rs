//! Unaligned reads from storage that requires alignment.

use std::io;

use super::read_at::ReadAt;
use crate::span::Span;

/// Heap buffer aligned to a power of two.
pub(crate) struct AlignedBuf {
    memory: Vec<u8>,
    lead_bytes: usize,
    len_bytes: usize,
}

impl AlignedBuf {
    /// Allocates a zeroed buffer of `len_bytes` at a multiple of `align_bytes`.
    pub(crate) fn new(len_bytes: usize, align_bytes: usize) -> Self {
        let memory = vec![0; len_bytes + align_bytes - 1];
        let address = memory.as_ptr().addr();
        Self { lead_bytes: address.next_multiple_of(align_bytes) - address, memory, len_bytes }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.memory[self.lead_bytes..][..self.len_bytes]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory[self.lead_bytes..][..self.len_bytes]
    }
}

/// Fills `buf` from `offset`, through an aligned bounce buffer if the storage requires one.
///
/// Returns the number of bytes filled: all of `buf` unless the file ends first.
pub(crate) fn read_full(storage: &dyn ReadAt, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let align = storage.alignment();
    if align == 1 {
        return read_until_full(storage, offset, buf);
    }
    let wanted = Span::new(offset, offset + buf.len() as u64);
    let wide = wanted.align_outward(align as u64);
    let mut bounce = AlignedBuf::new(wide.len_bytes() as usize, align);
    let got_bytes = read_until_full(storage, wide.start, bounce.as_mut_slice())?;
    let skipped_bytes = (wanted.start - wide.start) as usize;
    let filled_bytes = got_bytes.saturating_sub(skipped_bytes).min(buf.len());
    buf[..filled_bytes].copy_from_slice(&bounce.as_slice()[skipped_bytes..][..filled_bytes]);
    Ok(filled_bytes)
}

/// Reads until `buf` is full or the file ends; after a short read, resumes at the last aligned offset.
fn read_until_full(storage: &dyn ReadAt, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut got_bytes = 0;
    while got_bytes < buf.len() {
        let from = got_bytes - got_bytes % storage.alignment();
        match storage.read_at(offset + from as u64, &mut buf[from..]) {
            Ok(n) if from + n <= got_bytes => break,
            Ok(n) => got_bytes = from + n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got_bytes)
}
