//! Memory mapped from the system in whole OS pages.

use std::fmt;

use memmap2::MmapMut;

use crate::budget::{Budget, Reservation};
use crate::error::IoError;

/// Bytes in front of the data that [`PageBuf::lead_mut`] returns: room for the allocation header of a tensor library.
pub const LEAD_BYTES: usize = 16;

/// Minimum bytes of a mapping for huge pages: the size of one on x86-64 and most aarch64 systems.
#[cfg(target_os = "linux")]
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Zeroed, page-aligned memory, with one OS page of its own in front.
///
/// All of it, the page in front included, counts against a [`Budget`] until it is unmapped on drop.
pub struct PageBuf {
    map: MmapMut,
    lead_page_bytes: usize,
    len_bytes: usize,
    // Declared after the map, so that the bytes are released only after they are unmapped.
    _reservation: Reservation,
}

impl PageBuf {
    /// Maps `len_bytes` of memory.
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
        advise_huge_pages(&map);
        Ok(Self { map, lead_page_bytes: rustix::param::page_size(), len_bytes, _reservation: reservation })
    }

    /// Returns what a buffer of `len_bytes` costs its budget: whole OS pages, and one in front.
    pub fn cost_bytes(len_bytes: usize) -> u64 {
        let page_bytes = rustix::param::page_size() as u64;
        (len_bytes as u64).div_ceil(page_bytes).saturating_add(1).saturating_mul(page_bytes)
    }

    /// Returns the length of the data in bytes, as requested.
    pub fn len(&self) -> usize {
        self.len_bytes
    }

    /// Returns the length of the data with the rest of its last OS page, which belongs to the buffer, too.
    pub fn mapped_bytes(&self) -> usize {
        self.map.len() - self.lead_page_bytes
    }

    /// Returns whether the length of the data is 0.
    pub fn is_empty(&self) -> bool {
        self.len_bytes == 0
    }

    /// Returns the address of the first byte of data.
    ///
    /// The pointer is valid for the whole mapping, including the [`LEAD_BYTES`] in front and the rest of the last OS
    /// page.
    pub fn as_ptr(&self) -> *const u8 {
        self.map.as_ptr().wrapping_add(self.lead_page_bytes)
    }

    /// Returns the mutable address of the first byte of data, valid as far as [`as_ptr`](Self::as_ptr).
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.map.as_mut_ptr().wrapping_add(self.lead_page_bytes)
    }

    /// Returns the data.
    pub fn as_slice(&self) -> &[u8] {
        &self.map[self.lead_page_bytes..][..self.len_bytes]
    }

    /// Returns the data, mutably.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.map[self.lead_page_bytes..][..self.len_bytes]
    }

    /// Writes to each page, so that the system allocates all of them now.
    pub(crate) fn prefault(&mut self) {
        self.map.chunks_mut(self.lead_page_bytes).for_each(|page| page[0] = 0);
    }

    /// Returns the bytes immediately before the data.
    pub fn lead_mut(&mut self) -> &mut [u8; LEAD_BYTES] {
        let lead = self.map[..self.lead_page_bytes].last_chunk_mut();
        lead.expect("an OS page is longer than the lead")
    }
}

/// Advises the kernel to back a mapping with huge pages.
///
/// Direct reads run about twice as fast into huge pages: a device takes a request as a list of contiguous segments,
/// about 254 at most, and 1 MiB of ordinary OS pages is 256. Memory use does not grow, because the kernel uses a huge
/// page only where one fits into the mapping, all of which is charged to the budget.
#[cfg(target_os = "linux")]
fn advise_huge_pages(map: &MmapMut) {
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
        assert_eq!(buf.mapped_bytes(), 10_000usize.next_multiple_of(rustix::param::page_size()));
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
