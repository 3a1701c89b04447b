//! Kernels for AVX-512 with VNNI: a tile is two vectors of 16 lanes, one lane per row of weights.

/// Repeats a block with a constant for each value: arrays of vectors stay in registers only if every index is constant,
/// and the compiler does not unroll loops this long.
macro_rules! unroll {
    ($name:ident in [$($value:literal)*] $body:block) => {
        $({
            const $name: usize = $value;
            $body
        })*
    };
}

mod broadcast;
mod floats;
mod panel;
mod prefetch;
mod rows;
mod scales;
mod transpose;
mod vectors;
mod words;

use std::sync::Arc;

pub(super) use prefetch::of_processor as prefetch_of_processor;
pub(super) use words::HalfWords;

use super::Kernels;
use crate::activations::{self, FixedVector, Plane, Terms};
use crate::affine_tile::AffineTile;
use crate::attention::{self, CodedRows};
use crate::elementwise::{self, Gate};
use crate::prefetch::Prefetch;
use crate::recurrent;
use crate::strips::Strips;
use crate::tile::{CodeBits, Lanes, Layout, TILE};
use crate::widen::{self, NarrowFormat};

/// 32-bit lanes per vector.
pub(super) const LANES: usize = 16;

/// Vectors per tile.
pub(super) const HALVES: usize = TILE / LANES;

pub(super) fn is_available() -> bool {
    // `is_x86_feature_detected!` takes one feature at a time.
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

/// A constant, so that other tables can override some entries.
pub(super) const KERNELS: Kernels = kernels! {
    rows_direct: 16;
    prefetches: [Prefetch::Near, Prefetch::NonTemporal, Prefetch::Far];
    strips: Strips::SIXTEEN_ROWS, [4];
    quantize_group: quantize_group, (values, codes, terms);
    row_pairs: row_pairs, (bits, group);
    pack_rows: panel::pack_rows, (bits, codes, pairs, cross);
    arrange: arrange, (bits, codes);
    widen: widen, (narrow, codes, out);
    decode: floats::decode, (rows, columns, out);
    multiply_codes: multiply_codes, (tile, x, acc);
    unpack_codes: panel::unpack, (rows, links, panel);
    multiply_panel: panel::multiply, (panel, links, scales, x, sums);
    multiply_floats: floats::multiply, (rows, x, acc);
    multiply_lanes: floats::multiply_lanes, (weights, column_start, x, acc);
    rms_norm: rms_norm, (x, weight, eps, out);
    gate: gated, (kind, gate, up, out);
    softmax_numerators: softmax_numerators, (scores);
    axpby: axpby, (values, old, next, new);
    convolve: convolve, (x, weights, out);
    selective_step: selective_step, (decay, x, b, c, state, y);
    delta_step: delta_step, (decay_beta, q, k, v, state, y);
    dequantize: dequantize, (rows, out);
};

/// [`Kernels::multiply_codes`]. Weights in rows are multiplied with a single row of activations as they are, since
/// transposing their words would take longer.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn multiply_codes(tile: &AffineTile<'_>, x: &[Arc<FixedVector>], acc: &mut [Lanes]) {
    match (tile.codes.layout, x, &mut *acc) {
        (Layout::Rows, [x], [acc]) => rows::multiply(tile, x, acc),
        _ => broadcast::multiply(tile, x, acc),
    }
}

compiled_for! {
    "avx512f,avx512bw,avx512dq,avx512vl":
    fn row_pairs(bits: CodeBits, group: usize) -> usize = activations::row_pairs;
    fn quantize_group(values: &[f32], codes: &mut [i16], terms: &mut Terms) -> bool = activations::quantize_group;
    fn arrange(bits: CodeBits, codes: &[i16]) -> Vec<Plane> = activations::arrange_digits;
    fn widen(narrow: NarrowFormat<'_>, codes: &[u8], out: &mut [u8]) = widen::widen;
    fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = elementwise::rms_norm_row;
    fn gated(kind: Gate, gate: &[f32], up: &[f32], out: &mut [f32]) = elementwise::gate_slice;
    fn softmax_numerators(scores: &mut [f32]) -> (f32, f32) = elementwise::softmax_numerators;
    fn axpby(values: &mut [f32], old: f32, next: &[f32], new: f32) = attention::axpby;
    fn convolve(x: &[f32], weights: &[f32], out: &mut [f32]) = recurrent::convolve_row;
    fn selective_step(decay: f32, x: &[f32], b: &[f32], c: &[f32], state: &mut [f32], y: &mut [f32]) =
        recurrent::selective_step;
    fn delta_step(decay_beta: [f32; 2], q: &[f32], k: &[f32], v: &[f32], state: &mut [f32], y: &mut [f32]) =
        recurrent::delta_step;
    fn dequantize(rows: CodedRows<'_>, out: &mut [f32]) = attention::dequantize;
}
