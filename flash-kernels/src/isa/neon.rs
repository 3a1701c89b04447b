//! Kernels for NEON: a tile is eight vectors of 4 lanes, one lane per row of weights.
//!
//! On other architectures they are compiled for tests only, with emulated intrinsics in plain Rust.

mod codes;
mod floats;
#[cfg_attr(not(target_arch = "aarch64"), path = "neon/emulated.rs")]
mod intrinsics;
mod panel;
mod vectors;

use super::Kernels;
use crate::activations::{arrange_words, pack_rows, quantize_group, row_pairs};
use crate::attention::{axpby, dequantize};
use crate::elementwise::{gate_slice, rms_norm_row, softmax_numerators};
use crate::recurrent::{convolve_row, delta_step, selective_step};
use crate::tile::TILE;
use crate::widen::widen;

/// 32-bit lanes per vector.
const LANES: usize = 4;

/// Vectors per tile.
const QUADS: usize = TILE / LANES;

/// Every `AArch64` processor has NEON, but the kernels read stored numbers in native order, so it must be
/// little-endian.
#[cfg(target_arch = "aarch64")]
pub(super) const fn is_available() -> bool {
    cfg!(target_endian = "little")
}

// Every build assumes NEON, so the functions in plain Rust need no separate compilation.
pub(super) static KERNELS: Kernels = Kernels {
    rows_direct: 4,
    strips: None,
    strips_bits: &[],
    quantize_group,
    row_pairs,
    pack_rows,
    arrange: arrange_words,
    decode: floats::decode,
    multiply_codes: codes::multiply,
    unpack_codes: panel::unpack,
    multiply_panel: panel::multiply,
    multiply_floats: floats::multiply,
    multiply_lanes: floats::multiply_lanes,
    widen,
    rms_norm: rms_norm_row,
    gate: gate_slice,
    axpby,
    convolve: convolve_row,
    selective_step,
    delta_step,
    softmax_numerators,
    dequantize,
};
