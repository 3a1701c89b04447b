//! Fetching ahead: into which cache, and how far, so that codes and scales are there when they are multiplied.
//!
//! Distances are bytes in the order of the memory. `docs/performance.md` has the measurements behind them.

use std::arch::x86_64::*;
use std::sync::OnceLock;

/// One way to fetch ahead.
pub(super) trait Fetch {
    /// How far ahead codes are fetched, where those of four rows lie in four places. With less they come too late.
    const ROWS_BYTES: usize;
    /// The same in strips, where the processor's own prefetchers go ahead, too: with more they have nothing to do.
    const STRIPS_BYTES: usize;
    /// The same for scales and biases. A row has few, so it is the next strip's or tile's.
    const SCALES_BYTES: usize;
    /// Lines of codes that are fetched while chains are turned round.
    const BESIDE_LINES: usize;
    /// Whether lines go into the first cache, and codes into an outer one before, at twice the distance; else all go into the
    /// second one.
    const IS_NEAR: bool;
}

/// Fetches codes that are `ahead_bytes` behind `address`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn ahead<A: Fetch>(address: *const u8, ahead_bytes: usize) {
    line::<A>(address.wrapping_add(ahead_bytes));
    if A::IS_NEAR {
        _mm_prefetch::<_MM_HINT_T2>(address.wrapping_add(2 * ahead_bytes).cast());
    }
}

/// Fetches the line at `address`, where there may be nothing: a prefetch cannot fault.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn line<A: Fetch>(address: *const u8) {
    if A::IS_NEAR {
        _mm_prefetch::<_MM_HINT_NTA>(address.cast());
    } else {
        _mm_prefetch::<_MM_HINT_T1>(address.cast());
    }
}

/// Into the first cache: each line is used once. Memory is asked for it earlier than the first cache has room for it.
pub(super) struct Near;

/// Into the second cache, for processors whose first one can wait for too few lines at a time.
pub(super) struct Far;

impl Fetch for Near {
    const ROWS_BYTES: usize = 8 << 10;
    const STRIPS_BYTES: usize = 3 << 10;
    const SCALES_BYTES: usize = 1 << 10;
    const BESIDE_LINES: usize = 8;
    const IS_NEAR: bool = true;
}

impl Fetch for Far {
    const ROWS_BYTES: usize = 16 << 10;
    const STRIPS_BYTES: usize = 6 << 10;
    const SCALES_BYTES: usize = 4 << 10;
    const BESIDE_LINES: usize = 0;
    const IS_NEAR: bool = false;
}

/// Whether [`Near`] is the faster way here: on AMD's processors from Zen 5 on. Bits are the same in both.
#[inline]
pub(super) fn is_near() -> bool {
    static IS_NEAR: OnceLock<bool> = OnceLock::new();
    *IS_NEAR.get_or_init(|| {
        let vendor = __cpuid(0);
        let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
        name.as_flattened() == b"AuthenticAMD" && family(__cpuid(1).eax) >= ZEN_5
    })
}

/// The family of the first processors with Zen 5.
const ZEN_5: u32 = 0x1A;

/// The family of a processor that `cpuid` describes so: its base, to which an extension is added when all bits of it are set.
fn family(signature: u32) -> u32 {
    let (base, extended) = (signature >> 8 & 0xF, signature >> 20 & 0xFF);
    if base == 0xF { base + extended } else { base }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_read_from_signatures() {
        // Zen 4 (Genoa), Zen 5 (Turin), and an Intel processor of family 6.
        assert_eq!([0x00A1_0F11, 0x00B0_0F21, 0x000C_06F2].map(family), [0x19, 0x1A, 6]);
    }
}
