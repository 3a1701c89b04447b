//! The AMX matrix unit: eight tiles, each of up to 16 rows of 64 bytes. It multiplies a tile of activations with a tile
//! of codes and adds to a tile of 32-bit sums.
//!
//! Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.

#![expect(unsafe_code, reason = "the compiler has no stable intrinsics for the matrix unit")]

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::mem::MaybeUninit;

use bytemuck::Pod;

use crate::activations::ROW_TILE;

/// Bytes per row of a tile.
pub(super) const ROW_BYTES: usize = 64;

/// Bytes of each of the 16 rows of weights in a row of a tile.
pub(super) const WORD_BYTES: usize = 4;

/// Feature bits in `edx` of `cpuid` leaf 7.
const BF16_FEATURE: u32 = 1 << 22;
const TILE_FEATURE: u32 = 1 << 24;
const INT8_FEATURE: u32 = 1 << 25;

/// Whether the processor has the unit and the system permits this process to use it, which requires a request.
pub(super) fn is_available() -> bool {
    let features = TILE_FEATURE | INT8_FEATURE | BF16_FEATURE;
    __cpuid_count(7, 0).edx & features == features && is_permitted()
}

/// Requests permission for the tile data, for all threads of this process (`ARCH_REQ_XCOMP_PERM`). Systems without this
/// call do not save tiles.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: the call takes two numbers and only changes the permissions of the process.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// The configured tiles of this thread, released on drop. Nothing else uses them: neither the compiler nor other
/// threads, which have their own.
///
/// | tiles | contents |
/// |---|---|
/// | 0, 1 | first set of sums: 16 rows of activations by 16 rows of weights each |
/// | 2, 3 | second set of sums |
/// | 4, 5 | upper and lower digits of the activations |
/// | 6, 7 | codes, of half a tile of weights each |
pub(super) struct Tiles(());

/// Stored sums of both tiles of a set: 16 rows of activations, with a lane for each row of weights.
#[repr(C, align(64))]
pub(super) struct Sums<T>(pub(super) [[[T; ROW_TILE]; ROW_TILE]; 2]);

/// Instructions on the tiles of one set.
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
    /// Configures the tiles for steps of `step_bytes` along `k`, a multiple of [`WORD_BYTES`] up to [`ROW_BYTES`].
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
        // SAFETY: these kernels are only called on processors with the unit; it reads 64 bytes, the size of `config`.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const config, options(readonly, nostack, preserves_flags));
        }
        Self(())
    }

    /// Zeroes the sums of the set `set`.
    #[inline]
    pub(super) fn clear(&mut self, set: usize) {
        // SAFETY: the tiles are configured and belong to this thread.
        unsafe {
            match set {
                0 => in_tiles!("tmm0", "tmm1": clear),
                _ => in_tiles!("tmm2", "tmm3": clear),
            }
        }
    }

    /// Stores the sums of the set `set`, 32 bits each.
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
        // SAFETY: the tiles belong to this thread and are not used any more.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}
