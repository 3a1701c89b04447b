use std::io::Read;

use super::error::{GgufError, Place};

/// A reader that tracks the remaining bytes, against which lengths in a header are checked.
pub(super) struct Window<R> {
    inner: R,
    offset: u64,
    limit: u64,
}

impl<R: Read> Window<R> {
    pub(super) fn new(inner: R, limit: u64) -> Self {
        Self { inner, offset: 0, limit }
    }

    /// Returns the number of bytes consumed.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns `count` as a length; fails unless `count` items of at least `each_bytes` bytes can follow.
    pub(super) fn expect(
        &self,
        count: u64,
        each_bytes: u64,
        place: &Place,
        field: &'static str,
    ) -> Result<usize, GgufError> {
        let wanted_bytes = count.saturating_mul(each_bytes);
        let left_bytes = self.limit - self.offset;
        match usize::try_from(count) {
            Ok(count) if wanted_bytes <= left_bytes => Ok(count),
            _ => Err(GgufError::Truncated {
                place: place.clone(),
                field,
                offset: self.offset,
                wanted_bytes,
                left_bytes,
            }),
        }
    }

    /// Fills `buf`.
    pub(super) fn fill(
        &mut self,
        buf: &mut [u8],
        place: &Place,
        field: &'static str,
    ) -> Result<(), GgufError> {
        self.expect(buf.len() as u64, 1, place, field)?;
        self.inner.read_exact(buf).map_err(|error| GgufError::Read {
            place: place.clone(),
            field,
            offset: self.offset,
            error,
        })?;
        self.offset += buf.len() as u64;
        Ok(())
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        place: &Place,
        field: &'static str,
    ) -> Result<[u8; N], GgufError> {
        let mut buf = [0; N];
        self.fill(&mut buf, place, field)?;
        Ok(buf)
    }

    pub(super) fn u32(&mut self, place: &Place, field: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(place, field)?))
    }

    pub(super) fn u64(&mut self, place: &Place, field: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(place, field)?))
    }

    /// Reads `len` bytes; the length is checked before anything is allocated.
    pub(super) fn bytes(
        &mut self,
        len: u64,
        place: &Place,
        field: &'static str,
    ) -> Result<Vec<u8>, GgufError> {
        let mut buf = vec![0; self.expect(len, 1, place, field)?];
        self.fill(&mut buf, place, field)?;
        Ok(buf)
    }

    /// Reads a string: its length as u64, then UTF-8.
    pub(super) fn string(&mut self, place: &Place, field: &'static str) -> Result<String, GgufError> {
        let len = self.u64(place, field)?;
        String::from_utf8(self.bytes(len, place, field)?)
            .map_err(|_| GgufError::NotUtf8 { place: place.clone(), field })
    }
}
