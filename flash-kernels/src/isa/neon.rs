//! Kernels for NEON: a tile is eight vectors of 4 lanes, one lane per row of weights.
//!
//! On other architectures they are compiled for tests only, with emulated intrinsics in plain Rust.

mod byte_panel;
mod codes;
mod digits;
mod dotprod;
mod floats;
mod i8mm;
#[cfg_attr(not(target_arch = "aarch64"), path = "neon/emulated.rs")]
mod intrinsics;
mod panel;
mod vectors;

use std::ops::Range;
use std::sync::Arc;

use super::{Kernels, Sums};
use crate::activations::{FixedRows, FixedVector, pack_rows, quantize_group, row_pairs};
use crate::affine_tile::AffineTile;
use crate::attention::{axpby, dequantize};
use crate::elementwise::{gate_slice, rms_norm_row, softmax_numerators};
use crate::prefetch::Prefetch;
use crate::recurrent::{convolve_row, delta_step, selective_step};
use crate::tile::{CodePanel, GroupLanes, Lanes, TILE};
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

/// Whether the processor adds products of bytes in one instruction.
#[cfg(target_arch = "aarch64")]
pub(super) fn has_dotprod() -> bool {
    is_available() && std::arch::is_aarch64_feature_detected!("dotprod")
}

/// Whether the processor multiplies matrices of bytes.
#[cfg(target_arch = "aarch64")]
pub(super) fn has_i8mm() -> bool {
    is_available() && std::arch::is_aarch64_feature_detected!("i8mm")
}

// Every build assumes NEON, so the functions in plain Rust need no separate compilation.
/// A constant, so that other tables can override some entries.
pub(super) const KERNELS: Kernels = Kernels {
    rows_direct: 4,
    prefetch: Prefetch::Near,
    prefetches: &[Prefetch::Near],
    strips: None,
    strips_bits: &[],
    quantize_group,
    row_pairs,
    pack_rows,
    arrange: codes::arrange,
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

/// Kernels with the dot products of bytes.
pub(super) static DOTPROD_KERNELS: Kernels = Kernels {
    pack_rows: digits::pack_rows,
    arrange: dotprod::arrange,
    multiply_codes: multiply_codes_by_dots,
    unpack_codes: byte_panel::unpack_for_dots,
    multiply_panel: multiply_panel_by_dots,
    ..KERNELS
};

/// Kernels with products of matrices of bytes.
pub(super) static I8MM_KERNELS: Kernels = Kernels {
    pack_rows: digits::pack_rows,
    arrange: digits::arrange,
    multiply_codes: multiply_codes_by_matrices,
    unpack_codes: byte_panel::unpack_for_matrices,
    multiply_panel: multiply_panel_by_matrices,
    ..KERNELS
};

/// Defines kernels that require CPU features.
macro_rules! requiring_features {
    ($(fn $name:ident($($argument:ident: $type:ty),*) = $function:path;)*) => {
        $(
            fn $name($($argument: $type),*) {
                #[cfg(target_arch = "aarch64")]
                #[expect(unsafe_code, reason = "the function requires CPU features")]
                // SAFETY: `Isa::kernels` returns the table only if the processor has the instructions.
                unsafe {
                    $function($($argument),*);
                }
                #[cfg(not(target_arch = "aarch64"))]
                $function($($argument),*);
            }
        )*
    };
}

requiring_features! {
    fn multiply_codes_by_dots(tile: &AffineTile<'_>, x: &[Arc<FixedVector>], acc: &mut [Lanes]) = dotprod::multiply;
    fn multiply_codes_by_matrices(tile: &AffineTile<'_>, x: &[Arc<FixedVector>], acc: &mut [Lanes]) = i8mm::multiply;
    fn multiply_panel_by_dots(
        panel: &CodePanel, links: Range<usize>, scales: &GroupLanes, x: &FixedRows, sums: Sums<'_>
    ) = byte_panel::multiply_by_dots;
    fn multiply_panel_by_matrices(
        panel: &CodePanel, links: Range<usize>, scales: &GroupLanes, x: &FixedRows, sums: Sums<'_>
    ) = byte_panel::multiply_by_matrices;
}
