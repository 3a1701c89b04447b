//! Kernels for AVX2 with FMA and F16C: a tile is four vectors of 8 lanes, one lane for each row of the weights.

mod codes;
mod floats;
mod panel;
mod transpose;
mod vectors;

use super::Kernels;
use crate::activations::{self, Plane, Terms};
use crate::elementwise;
use crate::tile::{CodeBits, TILE};

/// Lanes of a vector of 32-bit numbers.
const LANES: usize = 8;

/// Vectors of a tile.
const OCTETS: usize = TILE / LANES;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

pub(super) static KERNELS: Kernels = kernels! {
    fix_group: fix_group, (values, codes);
    pack_rows: panel::pack_rows, (bits, codes, pairs, cross);
    arrange: arrange, (bits, codes, planes);
    decode: floats::decode, (rows, columns, out);
    multiply_codes: codes::multiply, (rows, groups, scales, x, acc);
    unpack_codes: panel::unpack, (rows, groups, panel);
    multiply_panel: panel::multiply, (panel, groups, scales, x, acc);
    multiply_floats: floats::multiply, (rows, x, acc);
    multiply_lanes: floats::multiply_lanes, (weights, column_start, x, acc);
    rms_norm: rms_norm, (x, weight, eps, out);
    swiglu: swiglu, (gate, up, out);
    soften: soften, (scores);
};

/// [`activations::fix_group`], compiled for these instructions.
#[target_feature(enable = "avx2")]
fn fix_group(values: &[f32], codes: &mut [i16]) -> Option<Terms> {
    activations::fix_group(values, codes)
}

/// [`activations::arrange_words`], compiled for these instructions.
#[target_feature(enable = "avx2")]
fn arrange(bits: CodeBits, codes: &[i16], planes: &mut [Plane]) {
    activations::arrange_words(bits, codes, planes);
}

/// [`elementwise::rms_norm_row`], compiled for these instructions.
#[target_feature(enable = "avx2")]
fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    elementwise::rms_norm_row(x, weight, eps, out);
}

/// [`elementwise::swiglu_slice`], compiled for these instructions.
#[target_feature(enable = "avx2")]
fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    elementwise::swiglu_slice(gate, up, out);
}

/// [`elementwise::soften`], compiled for these instructions.
#[target_feature(enable = "avx2")]
fn soften(scores: &mut [f32]) -> (f32, f32) {
    elementwise::soften(scores)
}
