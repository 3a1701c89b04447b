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
    /// Whether codes are asked for in two steps: into an outer cache at twice the distance, before the first cache has room for
    /// them.
    const IS_TWO_STEP: bool;
    /// Where lines are fetched to.
    const HINT: Hint;
}

/// Where a line is fetched to.
#[derive(Clone, Copy)]
pub(super) enum Hint {
    /// The first cache, and those behind it.
    All,
    /// The first cache, past the others.
    Once,
    /// The second cache.
    Second,
}

/// Fetches codes that are `ahead_bytes` behind `address`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn ahead<A: Fetch>(address: *const u8, ahead_bytes: usize) {
    line::<A>(address.wrapping_add(ahead_bytes));
    if A::IS_TWO_STEP {
        _mm_prefetch::<_MM_HINT_T2>(address.wrapping_add(2 * ahead_bytes).cast());
    }
}

/// Fetches the line at `address`, where there may be nothing: a prefetch cannot fault.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn line<A: Fetch>(address: *const u8) {
    let address = address.cast();
    match A::HINT {
        Hint::All => _mm_prefetch::<_MM_HINT_T0>(address),
        Hint::Once => _mm_prefetch::<_MM_HINT_NTA>(address),
        Hint::Second => _mm_prefetch::<_MM_HINT_T1>(address),
    }
}

/// Near, and through all caches: on Intel's processors.
pub(super) struct Near;

/// Near, and past the outer caches, for each line is used once: on AMD's from Zen 5 on.
pub(super) struct NearOnce;

/// Into the second cache, for processors whose first one can wait for too few lines at a time.
pub(super) struct Far;

impl Fetch for Near {
    const ROWS_BYTES: usize = 8 << 10;
    const STRIPS_BYTES: usize = 7 << 9;
    const SCALES_BYTES: usize = 1 << 10;
    const BESIDE_LINES: usize = 8;
    const IS_TWO_STEP: bool = true;
    const HINT: Hint = Hint::All;
}

impl Fetch for NearOnce {
    const ROWS_BYTES: usize = 8 << 10;
    const STRIPS_BYTES: usize = 3 << 10;
    const SCALES_BYTES: usize = 1 << 10;
    const BESIDE_LINES: usize = 8;
    const IS_TWO_STEP: bool = true;
    const HINT: Hint = Hint::Once;
}

impl Fetch for Far {
    const ROWS_BYTES: usize = 16 << 10;
    const STRIPS_BYTES: usize = 6 << 10;
    const SCALES_BYTES: usize = 4 << 10;
    const BESIDE_LINES: usize = 0;
    const IS_TWO_STEP: bool = false;
    const HINT: Hint = Hint::Second;
}

/// The ways there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Near,
    NearOnce,
    Far,
}

impl Way {
    /// The fastest here. Bits are the same in all.
    #[inline]
    pub(super) fn here() -> Self {
        static HERE: OnceLock<Way> = OnceLock::new();
        *HERE.get_or_init(|| {
            let vendor = __cpuid(0);
            let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
            Self::of(name.as_flattened(), __cpuid(1).eax)
        })
    }

    /// For a processor that `cpuid` describes so.
    fn of(vendor: &[u8], signature: u32) -> Self {
        match vendor {
            b"GenuineIntel" => Self::Near,
            b"AuthenticAMD" if family(signature) >= ZEN_5 => Self::NearOnce,
            _ => Self::Far,
        }
    }
}

/// The family of the first processors with Zen 5.
const ZEN_5: u32 = 0x1A;

/// The family of a processor with this signature: its base, to which an extension is added when all bits of it are set.
fn family(signature: u32) -> u32 {
    let (base, extended) = (signature >> 8 & 0xF, signature >> 20 & 0xFF);
    if base == 0xF { base + extended } else { base }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_known_by_vendor_and_family() {
        // Genoa has Zen 4, Turin Zen 5; Granite Rapids is of family 6.
        let of = |vendor: &str, signature| Way::of(vendor.as_bytes(), signature);
        assert_eq!(of("AuthenticAMD", 0x00A1_0F11), Way::Far);
        assert_eq!(of("AuthenticAMD", 0x00B0_0F21), Way::NearOnce);
        assert_eq!(of("GenuineIntel", 0x000A_06D1), Way::Near);
        assert_eq!(of("HygonGenuine", 0x0090_0F01), Way::Far);
    }
}
