//! Kernels for AVX-VNNI, the dot products of AVX-512 in vectors of AVX2: those of AVX2 with other dot products.
//!
//! Where the extension for signed bytes comes with it (AVX-VNNI-INT8), it would not help: codes are unsigned.
//!
//! Tests of this crate compile them with emulated instructions for every processor with AVX2.

mod dots;
#[cfg_attr(test, path = "avxvnni/emulated.rs")]
mod intrinsics;

use std::ops::Range;
use std::sync::Arc;

use super::{Kernels, Sums, avx2};
use crate::activations::{FixedRows, FixedVector};
use crate::affine_tile::AffineTile;
use crate::tile::{CodePanel, GroupLanes, Lanes};

pub(super) use dots::{by_digits, by_pairs, of_panel};

pub(super) fn is_available() -> bool {
    avx2::is_available() && is_x86_feature_detected!("avxvnni")
}

pub(super) static KERNELS: Kernels = kernels! {
    ..avx2::KERNELS;
    multiply_codes: multiply_codes, (tile, x, acc);
    multiply_panel: multiply_panel, (panel, links, scales, x, sums);
};

/// [`Kernels::multiply_codes`].
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_codes(tile: &AffineTile<'_>, x: &[Arc<FixedVector>], acc: &mut [Lanes]) {
    avx2::multiply_codes::<true>(tile, x, acc);
}

/// [`Kernels::multiply_panel`].
#[target_feature(enable = "avx2,fma")]
fn multiply_panel(
    panel: &CodePanel,
    links: Range<usize>,
    scales: &GroupLanes,
    x: &FixedRows,
    sums: Sums<'_>,
) {
    avx2::multiply_panel::<true>(panel, links, scales, x, sums);
}
