//! Kernels for AMX, Intel's matrix unit, which multiplies many rows of activations. All other kernels are those of
//! AVX-512, which every processor with AMX has.
//!
//! The unit takes digits and codes as [`bf16`] if their sums are exact, otherwise as [`bytes`].

mod bf16;
mod bytes;
mod panel;
mod unit;

use std::ops::Range;

use bf16::Bf16;
use bytes::Bytes;

use super::{Kernels, Sums, avx512};
use crate::activations::{FixedRows, ROW_TILE, RowPairs};
use crate::chains::Link;
use crate::tile::{CodeBits, CodePanel, CodeRows, GroupLanes};

pub(super) fn is_available() -> bool {
    avx512::is_available() && unit::is_available()
}

pub(super) static KERNELS: Kernels = kernels! {
    ..avx512::KERNELS;
    row_pairs: row_pairs, (bits, group);
    pack_rows: pack_rows, (bits, codes, pairs, cross);
    unpack_codes: unpack_codes, (rows, links, panel);
    multiply_panel: multiply_panel, (panel, links, scales, x, sums);
};

/// Whether groups of such codes are multiplied as [`bf16`].
fn uses_bf16(bits: CodeBits, group: usize) -> bool {
    bits == CodeBits::Four && group <= bf16::GROUP_MAX
}

/// [`Kernels::row_pairs`].
#[target_feature(enable = "avx512f")]
fn row_pairs(bits: CodeBits, group: usize) -> usize {
    if uses_bf16(bits, group) { bf16::row_pairs(group) } else { bytes::row_pairs(group) }
}

/// [`Kernels::pack_rows`], without `cross`, since the unit computes plain sums of products.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn pack_rows(bits: CodeBits, codes: &[i16], pairs: &mut [RowPairs], _cross: &mut [i32; ROW_TILE]) {
    if uses_bf16(bits, codes.len() / ROW_TILE) {
        bf16::pack_rows(codes, pairs);
    } else {
        bytes::pack_rows(bits, codes, pairs);
    }
}

/// [`Kernels::unpack_codes`].
#[target_feature(enable = "avx512f,avx512bw")]
fn unpack_codes(rows: CodeRows<'_>, links: &[Link], panel: &mut CodePanel) {
    if uses_bf16(rows.bits, rows.group) {
        bf16::unpack_codes(rows, links, panel);
    } else {
        bytes::unpack_codes(rows, links, panel);
    }
}

/// [`Kernels::multiply_panel`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn multiply_panel(
    panel: &CodePanel,
    links: Range<usize>,
    scales: &GroupLanes,
    x: &FixedRows,
    sums: Sums<'_>,
) {
    if uses_bf16(x.bits, x.group) {
        panel::multiply::<Bf16>(panel, links, scales, x, sums);
    } else if x.group < unit::ROW_BYTES {
        panel::multiply::<Bytes<32>>(panel, links, scales, x, sums);
    } else {
        panel::multiply::<Bytes<{ unit::ROW_BYTES }>>(panel, links, scales, x, sums);
    }
}
