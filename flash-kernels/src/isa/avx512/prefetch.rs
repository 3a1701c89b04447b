//! Distances and targets of the prefetching policies.
//!
//! Distances are bytes in address order. `docs/performance.md` has the measurements behind them.

use std::arch::x86_64::*;

use crate::prefetch::Prefetch;

/// A prefetching policy.
pub(super) trait Policy {
    /// Distance for codes in rows, where four rows are four streams. Shorter distances are too late.
    const ROWS_BYTES: usize;
    /// Distance for codes in strips. Longer distances leave nothing to the hardware prefetchers, which help with a
    /// single stream.
    const STRIPS_BYTES: usize;
    /// Distance for scales and biases. A row has few, so it reaches into the next strip or tile.
    const SCALES_BYTES: usize;
    /// Lines of codes to prefetch while chains are transposed.
    const TRANSPOSE_LINES: usize;
    /// Whether codes are prefetched in two steps: first into an outer cache at twice the distance, before the L1 cache
    /// has room for them.
    const IS_TWO_STEP: bool;
    /// Target of the prefetches.
    const HINT: Hint;
}

/// Cache that a line is fetched to.
#[derive(Clone, Copy)]
pub(super) enum Hint {
    /// L1 and the outer caches.
    L1,
    /// L1, bypassing the outer caches.
    L1NonTemporal,
    /// L2.
    L2,
}

/// Prefetches codes `ahead_bytes` beyond `address`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn ahead<A: Policy>(address: *const u8, ahead_bytes: usize) {
    line::<A>(address.wrapping_add(ahead_bytes));
    if A::IS_TWO_STEP {
        _mm_prefetch::<_MM_HINT_T2>(address.wrapping_add(2 * ahead_bytes).cast());
    }
}

/// Prefetches the line at `address`. There may be nothing there, but a prefetch cannot fault.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn line<A: Policy>(address: *const u8) {
    let address = address.cast();
    match A::HINT {
        Hint::L1 => _mm_prefetch::<_MM_HINT_T0>(address),
        Hint::L1NonTemporal => _mm_prefetch::<_MM_HINT_NTA>(address),
        Hint::L2 => _mm_prefetch::<_MM_HINT_T1>(address),
    }
}

/// [`Prefetch::Near`], the fastest on Intel's processors.
pub(super) struct L1;

/// [`Prefetch::NonTemporal`], the fastest on AMD's processors from Zen 5 on.
pub(super) struct L1NonTemporal;

/// [`Prefetch::Far`], into L2: the fastest on processors whose L1 cache supports too few outstanding misses.
pub(super) struct L2;

impl Policy for L1 {
    const ROWS_BYTES: usize = 8 << 10;
    const STRIPS_BYTES: usize = 7 << 9;
    const SCALES_BYTES: usize = 1 << 10;
    const TRANSPOSE_LINES: usize = 8;
    const IS_TWO_STEP: bool = true;
    const HINT: Hint = Hint::L1;
}

impl Policy for L1NonTemporal {
    const ROWS_BYTES: usize = 8 << 10;
    const STRIPS_BYTES: usize = 3 << 10;
    const SCALES_BYTES: usize = 1 << 10;
    const TRANSPOSE_LINES: usize = 8;
    const IS_TWO_STEP: bool = true;
    const HINT: Hint = Hint::L1NonTemporal;
}

impl Policy for L2 {
    const ROWS_BYTES: usize = 16 << 10;
    const STRIPS_BYTES: usize = 6 << 10;
    const SCALES_BYTES: usize = 4 << 10;
    const TRANSPOSE_LINES: usize = 0;
    const IS_TWO_STEP: bool = false;
    const HINT: Hint = Hint::L2;
}

/// Returns the policy that was fastest on processors of the vendor and family of this one.
pub(in crate::isa) fn of_processor() -> Prefetch {
    let vendor = __cpuid(0);
    let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
    of(name.as_flattened(), __cpuid(1).eax)
}

/// Returns the policy for a `cpuid` vendor and signature.
fn of(vendor: &[u8], signature: u32) -> Prefetch {
    match vendor {
        b"GenuineIntel" => Prefetch::Near,
        b"AuthenticAMD" if family(signature) >= ZEN_5 => Prefetch::NonTemporal,
        _ => Prefetch::Far,
    }
}

/// Family of the first Zen 5 processors.
const ZEN_5: u32 = 0x1A;

/// Returns the family in a `cpuid` signature: the base family, plus the extended one if all bits of the base are set.
fn family(signature: u32) -> u32 {
    let (base, extended) = (signature >> 8 & 0xF, signature >> 20 & 0xFF);
    if base == 0xF { base + extended } else { base }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_known_by_vendor_and_family() {
        // Genoa is Zen 4, Turin Zen 5; Granite Rapids is Intel family 6.
        let of = |vendor: &str, signature| of(vendor.as_bytes(), signature);
        assert_eq!(of("AuthenticAMD", 0x00A1_0F11), Prefetch::Far);
        assert_eq!(of("AuthenticAMD", 0x00B0_0F21), Prefetch::NonTemporal);
        assert_eq!(of("GenuineIntel", 0x000A_06D1), Prefetch::Near);
        assert_eq!(of("HygonGenuine", 0x0090_0F01), Prefetch::Far);
    }
}
