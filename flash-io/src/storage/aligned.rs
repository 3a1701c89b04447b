//! Reads of any range from storage that only reads aligned ones.

use std::io;

use super::ReadAt;
use crate::span::Span;

/// Heap memory that begins at a multiple of a power of two.
pub(crate) struct AlignedBuf {
    memory: Vec<u8>,
    lead_bytes: usize,
    len_bytes: usize,
}

impl AlignedBuf {
    /// Zeroed memory of `len_bytes` at a multiple of `align_bytes`.
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

/// Fills `buf` from `offset` on as far as the file goes, through an aligned copy if the storage asks for
/// one.
///
/// Returns how many bytes of `buf` were filled.
pub(crate) fn read_full(storage: &dyn ReadAt, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let align = storage.alignment();
    if align == 1 {
        return read_on(storage, offset, buf);
    }
    let wanted = Span::new(offset, offset + buf.len() as u64);
    let wide = wanted.align_outward(align as u64);
    let mut bounce = AlignedBuf::new(wide.len_bytes() as usize, align);
    let got_bytes = read_on(storage, wide.start, bounce.as_mut_slice())?;
    let skipped_bytes = (wanted.start - wide.start) as usize;
    let filled_bytes = got_bytes.saturating_sub(skipped_bytes).min(buf.len());
    buf[..filled_bytes].copy_from_slice(&bounce.as_slice()[skipped_bytes..][..filled_bytes]);
    Ok(filled_bytes)
}

/// Reads until `buf` is full or the file ends; after a short read it goes on at the last aligned offset.
fn read_on(storage: &dyn ReadAt, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
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
