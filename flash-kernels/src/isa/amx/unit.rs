//! The matrix unit: eight tiles, each of up to 16 rows of 64 bytes. `TDPBSUD` multiplies one of signed bytes with one of
//! unsigned bytes, four of which follow each other in a row, and adds to one of 32-bit integers.
//!
//! Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.

#![expect(unsafe_code, reason = "the compiler has no stable intrinsics for the matrix unit")]

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::mem::MaybeUninit;

use crate::activations::ROW_TILE;

/// Bytes of a row of a tile.
pub(super) const ROW_BYTES: usize = 64;

/// Bits of `edx` of the leaf 7 of `cpuid`.
const TILE_FEATURE: u32 = 1 << 24;
const INT8_FEATURE: u32 = 1 << 25;

/// Whether the processor has the unit, and the system lets this process use it: it has to be asked.
pub(super) fn is_available() -> bool {
    let features = TILE_FEATURE | INT8_FEATURE;
    __cpuid_count(7, 0).edx & features == features && is_permitted()
}

/// `ARCH_REQ_XCOMP_PERM` for the tiles' data, for all threads of this process. Systems without it do not save tiles.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: the call takes two numbers, and changes nothing but what the process may do.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// The tiles of this thread, for as long as it multiplies. No one else uses them: the compiler does not, and other threads
/// have their own.
///
/// | tiles | hold |
/// |---|---|
/// | 0 to 3 | sums: of both halves of a tile of weights with the upper digits, and with the lower |
/// | 4, 5 | upper and lower digits of 16 rows of activations |
/// | 6, 7 | codes of both halves |
pub(super) struct Tiles {
    /// Bytes along `k` of a step.
    step_bytes: usize,
}

/// Sums of 16 rows of activations, a lane for each row of half a tile of weights.
pub(super) type Sums = [[i32; ROW_TILE]; ROW_TILE];

/// Of both halves: with the upper digits, and with the lower.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct DigitSums(pub(super) [[Sums; 2]; 2]);

#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    /// For steps of `step_bytes` along `k`: at most [`ROW_BYTES`], in words.
    pub(super) fn new(step_bytes: usize) -> Self {
        assert!(step_bytes <= ROW_BYTES && step_bytes.is_multiple_of(4), "{step_bytes} B along k");
        let mut config =
            Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for tile in 0..8 {
            let (rows, row_bytes) = match tile {
                0..4 => (ROW_TILE, ROW_BYTES),
                4..6 => (ROW_TILE, step_bytes),
                _ => (step_bytes / 4, ROW_BYTES),
            };
            (config.rows[tile], config.row_bytes[tile]) = (rows as u8, row_bytes as u16);
        }
        // SAFETY: the processor has the unit, as whoever calls these kernels knows; it reads 64 bytes, which are there.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const config, options(readonly, nostack, preserves_flags));
        }
        Self { step_bytes }
    }

    /// Sets all sums to zero.
    #[inline]
    pub(super) fn clear(&mut self) {
        // SAFETY: these tiles are configured.
        unsafe {
            asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nomem, nostack, preserves_flags),
            );
        }
    }

    /// Adds the products of a step: `x` are the upper digits of 16 rows of activations and behind them the lower, `codes` for
    /// each four bytes along `k` those of 32 rows of weights.
    ///
    /// # Safety
    /// At `x` there must be 32 rows of a step, at `codes` a quarter as many lines of 128 bytes as a step has bytes.
    #[inline]
    pub(super) unsafe fn add(&mut self, x: *const u8, codes: *const u8) {
        // SAFETY: the tiles are configured; the rest is the caller's promise.
        unsafe {
            asm!(
                "tileloadd tmm4, [{x} + {step}]",
                "tileloadd tmm6, [{codes} + {line}]",
                "tdpbsud tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{lower} + {step}]",
                "tdpbsud tmm1, tmm5, tmm6",
                "tileloadd tmm7, [{codes} + {line} + 64]",
                "tdpbsud tmm2, tmm4, tmm7",
                "tdpbsud tmm3, tmm5, tmm7",
                x = in(reg) x,
                lower = in(reg) x.wrapping_add(ROW_TILE * self.step_bytes),
                step = in(reg) self.step_bytes,
                codes = in(reg) codes,
                line = in(reg) 2 * ROW_BYTES,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(readonly, nostack, preserves_flags),
            );
        }
    }

    /// Writes all sums.
    #[inline]
    pub(super) fn store(&self, sums: &mut MaybeUninit<DigitSums>) {
        // SAFETY: the tiles are configured, and `sums` has room for four of them.
        unsafe {
            asm!(
                "tilestored [{sums} + {row}], tmm0",
                "tilestored [{sums} + {row} + 1024], tmm1",
                "tilestored [{sums} + {row} + 2048], tmm2",
                "tilestored [{sums} + {row} + 3072], tmm3",
                sums = in(reg) sums.as_mut_ptr(),
                row = in(reg) ROW_BYTES,
                options(nostack, preserves_flags),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the tiles are this thread's, and no one needs them any more: nothing has to be saved for them.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}
