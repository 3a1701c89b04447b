//! Memory straight from the system, in whole OS pages.

use std::fmt;

use memmap2::MmapMut;

use crate::budget::{Budget, Reservation};
use crate::error::IoError;

/// Bytes in front of the data that [`PageBuf::lead_mut`] lends out: room for the header that a tensor
/// library keeps before the bytes it frees.
pub const LEAD_BYTES: usize = 16;

/// The smallest memory, in bytes, for which huge pages are asked: one of them on x86-64 and on most of
/// aarch64.
#[cfg(target_os = "linux")]
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Zeroed memory whose first byte lies at an OS page, with one OS page of its own in front.
///
/// It is drawn from a [`Budget`], the page in front included, and given back to the system when dropped.
pub struct PageBuf {
    map: MmapMut,
    lead_page_bytes: usize,
    len_bytes: usize,
    // After the map: bytes are free for others only once the system has them.
    _reservation: Reservation,
}

impl PageBuf {
    /// Takes `len_bytes` of memory.
    ///
    /// # Errors
    /// [`IoError::OverBudget`] if [`cost_bytes`](Self::cost_bytes) are not free, [`IoError::Map`] if the
    /// system has no memory.
    pub fn new(len_bytes: usize, budget: &Budget) -> Result<Self, IoError> {
        let cost_bytes = Self::cost_bytes(len_bytes);
        let reservation = budget.reserve(cost_bytes)?;
        let failed = |error| IoError::Map { wanted_bytes: cost_bytes, error };
        let map_bytes =
            usize::try_from(cost_bytes).map_err(|_| failed(std::io::ErrorKind::OutOfMemory.into()))?;
        let map = MmapMut::map_anon(map_bytes).map_err(failed)?;
        #[cfg(target_os = "linux")]
        ask_for_huge_pages(&map);
        Ok(Self { map, lead_page_bytes: rustix::param::page_size(), len_bytes, _reservation: reservation })
    }

    /// What a buffer of `len_bytes` costs its budget: whole OS pages, and one in front.
    pub fn cost_bytes(len_bytes: usize) -> u64 {
        let page_bytes = rustix::param::page_size() as u64;
        (len_bytes as u64).div_ceil(page_bytes).saturating_add(1).saturating_mul(page_bytes)
    }

    /// Length of the data in bytes, as it was asked for.
    pub fn len(&self) -> usize {
        self.len_bytes
    }

    /// Whether it was made without any data.
    pub fn is_empty(&self) -> bool {
        self.len_bytes == 0
    }

    /// Address of the first byte of data.
    ///
    /// The pointer reaches over the whole memory: the [`LEAD_BYTES`] in front of it and the rest of the
    /// last OS page too.
    pub fn as_ptr(&self) -> *const u8 {
        self.map.as_ptr().wrapping_add(self.lead_page_bytes)
    }

    /// Address of the first byte of data, for writing; reaches as far as [`as_ptr`](Self::as_ptr).
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.map.as_mut_ptr().wrapping_add(self.lead_page_bytes)
    }

    /// The data.
    pub fn as_slice(&self) -> &[u8] {
        &self.map[self.lead_page_bytes..][..self.len_bytes]
    }

    /// The data, for writing.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.map[self.lead_page_bytes..][..self.len_bytes]
    }

    /// Has the system find memory for all of it now.
    pub(crate) fn touch(&mut self) {
        self.map.chunks_mut(self.lead_page_bytes).for_each(|page| page[0] = 0);
    }

    /// The bytes right before the data.
    pub fn lead_mut(&mut self) -> &mut [u8; LEAD_BYTES] {
        let lead = self.map[..self.lead_page_bytes].last_chunk_mut();
        lead.expect("an OS page is longer than the lead")
    }
}

/// Direct reads run about twice as fast into huge pages: a device takes a request as a list of contiguous
/// runs, about 254 at most, and 1 MiB of ordinary OS pages is 256. They cost nothing more, for the kernel
/// uses them only where one fits into the mapping, all of which is charged to the budget.
#[cfg(target_os = "linux")]
fn ask_for_huge_pages(map: &MmapMut) {
    if map.len() >= HUGE_PAGE_BYTES
        && let Err(error) = map.advise(memmap2::Advice::HugePage)
    {
        tracing::debug!(%error, "memory without huge pages");
    }
}

impl fmt::Debug for PageBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageBuf").field("addr", &self.as_ptr()).field("len_bytes", &self.len_bytes).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_zeroed_and_begins_at_an_os_page() {
        let budget = Budget::new(1 << 20);
        let buf = PageBuf::new(10_000, &budget).unwrap();
        assert!(buf.as_ptr().addr().is_multiple_of(rustix::param::page_size()));
        assert_eq!(buf.as_slice().len(), 10_000);
        assert!(buf.as_slice().iter().all(|&byte| byte == 0));
    }

    #[test]
    fn lead_lies_right_before_the_data_and_apart_from_it() {
        let budget = Budget::new(1 << 20);
        let mut buf = PageBuf::new(1, &budget).unwrap();
        buf.lead_mut().fill(0xaa);
        assert_eq!(buf.lead_mut().as_ptr().addr() + LEAD_BYTES, buf.as_ptr().addr());
        assert_eq!(buf.as_slice(), [0]);
    }

    #[test]
    fn budget_is_charged_for_whole_pages_and_the_lead_until_drop() {
        let page_bytes = rustix::param::page_size() as u64;
        let budget = Budget::new(3 * page_bytes);
        let buf = PageBuf::new(page_bytes as usize + 1, &budget).unwrap();
        assert_eq!(budget.used_bytes(), 3 * page_bytes);
        assert!(matches!(PageBuf::new(1, &budget), Err(IoError::OverBudget { .. })));
        drop(buf);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn memory_the_system_does_not_have_is_an_error_and_costs_nothing() {
        let budget = Budget::new(u64::MAX);
        assert!(matches!(PageBuf::new(usize::MAX / 2, &budget), Err(IoError::Map { .. })));
        assert_eq!(budget.used_bytes(), 0);
        assert!(PageBuf::new(0, &budget).unwrap().is_empty());
    }
}
