//! Reading of memory at full speed, the bound of products with few rows, and eviction from caches.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::activations::LINE_BYTES;
use crate::pool::Pool;

/// Bytes per part: large next to what a thread prefetches beyond its part.
const PART_BYTES: usize = 4 << 20;
/// Bytes per part of an eviction.
const EVICT_BYTES: usize = 256 << 10;

/// Returns the wrapping sum of the 64-bit words of `bytes`, which all threads of the pool read; bytes beyond the last
/// whole word are not. The time this takes for bytes outside of all caches is that of reading memory.
///
/// # Panics
/// If called from within a job of the same pool.
pub fn sum_words(pool: &Pool, bytes: &[u8]) -> u64 {
    let parts: Vec<&[u8]> = bytes.chunks(PART_BYTES).collect();
    let all = AtomicU64::new(0);
    pool.run(parts.len(), &|part_idx| {
        all.fetch_add(sum(parts[part_idx].as_chunks().0), Ordering::Relaxed);
    });
    all.into_inner()
}

/// Evicts `bytes` from the caches of all cores, so that they are read from memory next. Does nothing on processors without
/// an instruction for it.
///
/// # Panics
/// If called from within a job of the same pool.
pub(crate) fn evict(pool: &Pool, bytes: &[u8]) {
    let parts: Vec<&[u8]> = bytes.chunks(EVICT_BYTES).collect();
    pool.run(parts.len(), &|part_idx| parts[part_idx].chunks(LINE_BYTES).for_each(evict_line));
}

/// Evicts the line of the first byte.
#[cfg(target_arch = "x86_64")]
fn evict_line(bytes: &[u8]) {
    #[expect(unsafe_code, reason = "the instruction takes an address")]
    // SAFETY: every x86-64 processor has the instruction, and the address is that of readable memory, whose contents do
    // not change.
    unsafe {
        std::arch::x86_64::_mm_clflush(bytes.as_ptr());
    }
}

/// Evicts the line of the first byte.
#[cfg(all(target_arch = "aarch64", target_os = "linux"))]
fn evict_line(bytes: &[u8]) {
    #[expect(unsafe_code, reason = "the instruction takes an address")]
    // SAFETY: Linux allows programs this instruction, and the address is that of readable memory, whose contents do not
    // change.
    unsafe {
        std::arch::asm!("dc civac, {}", in(reg) bytes.as_ptr(), options(nostack, preserves_flags));
    }
}

#[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_os = "linux"))))]
fn evict_line(_: &[u8]) {}

/// Adds the words of a cache line at a time, into independent sums. With more sums than registers, the compiler reads
/// lines from back to front, which defeats the hardware prefetcher.
fn sum(words: &[[u8; 8]]) -> u64 {
    let mut sums = [0_u64; 8];
    let (lines, rest) = words.as_chunks::<8>();
    for line in lines {
        for (sum, word) in sums.iter_mut().zip(line) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    let rest = rest.iter().map(|word| u64::from_le_bytes(*word));
    rest.chain(sums).fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::isa::Isa;

    #[test]
    fn every_whole_word_is_read() {
        let pool = Pool::with_isa(NonZeroUsize::new(3).unwrap(), Isa::Portable).unwrap();
        for n_words in [0, 1, 9, PART_BYTES / 8 + 5] {
            let words: Vec<u64> = (0..n_words as u64).map(|idx| idx.wrapping_mul(u64::MAX / 7)).collect();
            let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            bytes.extend([0xFF; 7]);
            assert_eq!(sum_words(&pool, &bytes), words.into_iter().fold(0, u64::wrapping_add));
        }
    }
}
