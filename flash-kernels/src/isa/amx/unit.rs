//! The matrix unit: eight tiles, each of up to 16 rows of 64 bytes. It multiplies a tile of activations with one of codes, and
//! adds to one of sums of 32 bits.
//!
//! Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.

#![expect(unsafe_code, reason = "the compiler has no stable intrinsics for the matrix unit")]

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::mem::MaybeUninit;

use bytemuck::Pod;

use crate::activations::ROW_TILE;

/// Bytes of a row of a tile.
pub(super) const ROW_BYTES: usize = 64;

/// Bytes of each row of weights, one of 16, in a row of a tile.
pub(super) const WORD_BYTES: usize = 4;

/// Bits of `edx` of the leaf 7 of `cpuid`.
const BF16_FEATURE: u32 = 1 << 22;
const TILE_FEATURE: u32 = 1 << 24;
const INT8_FEATURE: u32 = 1 << 25;

/// Whether the processor has the unit, and the system lets this process use it: it has to be asked.
pub(super) fn is_available() -> bool {
    let features = TILE_FEATURE | INT8_FEATURE | BF16_FEATURE;
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
/// | 0, 1 | a set of sums: of 16 rows of activations with 16 rows of weights |
/// | 2, 3 | another set |
/// | 4, 5 | digits of the activations: the upper, and the lower |
/// | 6, 7 | codes of half a tile of weights, each |
pub(super) struct Tiles(());

/// Both tiles of a set of sums: of 16 rows of activations, with a lane for each row of weights.
#[repr(C, align(64))]
pub(super) struct Sums<T>(pub(super) [[[T; ROW_TILE]; ROW_TILE]; 2]);

/// The instructions for the tiles of one set.
macro_rules! in_tiles {
    ($first:literal, $second:literal: clear) => {
        asm!(
            concat!("tilezero ", $first),
            concat!("tilezero ", $second),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nomem, nostack, preserves_flags),
        )
    };
    ($first:literal, $second:literal: store $sums:ident) => {
        asm!(
            concat!("tilestored [{sums} + {row}], ", $first),
            concat!("tilestored [{sums} + {row} + 1024], ", $second),
            sums = in(reg) $sums.as_mut_ptr(),
            row = in(reg) ROW_BYTES,
            options(nostack, preserves_flags),
        )
    };
}

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
        assert!(step_bytes <= ROW_BYTES && step_bytes.is_multiple_of(WORD_BYTES), "{step_bytes} B along k");
        let mut config =
            Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for tile in 0..8 {
            let (rows, row_bytes) = match tile {
                0..4 => (ROW_TILE, ROW_BYTES),
                4..6 => (ROW_TILE, step_bytes),
                _ => (step_bytes / WORD_BYTES, ROW_BYTES),
            };
            (config.rows[tile], config.row_bytes[tile]) = (rows as u8, row_bytes as u16);
        }
        // SAFETY: the processor has the unit, as whoever calls these kernels knows; it reads 64 bytes, which are there.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const config, options(readonly, nostack, preserves_flags));
        }
        Self(())
    }

    /// Sets the sums of the set `set` to zero.
    #[inline]
    pub(super) fn clear(&mut self, set: usize) {
        // SAFETY: the tiles are configured, and this thread's.
        unsafe {
            match set {
                0 => in_tiles!("tmm0", "tmm1": clear),
                _ => in_tiles!("tmm2", "tmm3": clear),
            }
        }
    }

    /// Writes the sums of the set `set`: numbers of 32 bits.
    #[inline]
    pub(super) fn store<T: Pod>(&self, set: usize, sums: &mut MaybeUninit<Sums<T>>) {
        const { assert!(size_of::<T>() * ROW_TILE == ROW_BYTES) };
        // SAFETY: the tiles are configured, and `sums` has room for two of them.
        unsafe {
            match set {
                0 => in_tiles!("tmm0", "tmm1": store sums),
                _ => in_tiles!("tmm2", "tmm3": store sums),
            }
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the tiles are this thread's, and no one needs them any more: nothing has to be saved for them.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}
