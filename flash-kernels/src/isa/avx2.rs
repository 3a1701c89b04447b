//! Kernels for AVX2 with FMA and F16C: a tile is four vectors of 8 lanes, one lane per row of weights.

mod codes;
mod dots;
mod floats;
mod panel;
mod scales;
mod transpose;
mod vectors;
mod words;

pub(super) use codes::multiply_with as multiply_codes;
pub(super) use dots::{Each, schedule_before_loads, splat_pair};
pub(super) use panel::multiply_with as multiply_panel;
pub(super) use vectors::{VECTORS, load_line};

use super::Kernels;
use crate::activations::{self, Terms};
use crate::attention::{self, CodedRows};
use crate::elementwise::{self, Gate};
use crate::prefetch::Prefetch;
use crate::recurrent;
use crate::strips::Strips;
use crate::tile::{CodeBits, TILE};
use crate::widen::{self, NarrowFormat};

/// 32-bit lanes per vector.
const LANES: usize = 8;

/// Vectors per tile.
const OCTETS: usize = TILE / LANES;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// A constant, so that other tables can override some entries.
pub(super) const KERNELS: Kernels = kernels! {
    rows_direct: 12;
    prefetches: [Prefetch::Near, Prefetch::Far];
    strips: Strips::SIXTEEN_ROWS, [4, 8];
    quantize_group: quantize_group, (values, codes, terms);
    row_pairs: row_pairs, (bits, group);
    pack_rows: panel::pack_rows, (bits, codes, pairs, cross);
    arrange: codes::arrange, (bits, codes);
    decode: floats::decode, (rows, columns, out);
    multiply_codes: codes::multiply, (tile, x, acc);
    unpack_codes: panel::unpack, (rows, links, panel);
    multiply_panel: panel::multiply, (panel, links, scales, x, sums);
    multiply_floats: floats::multiply, (rows, x, acc);
    multiply_lanes: floats::multiply_lanes, (weights, column_start, x, acc);
    widen: widen, (narrow, codes, out);
    rms_norm: rms_norm, (x, weight, eps, out);
    gate: gated, (kind, gate, up, out);
    softmax_numerators: softmax_numerators, (scores);
    axpby: axpby, (values, old, next, new);
    convolve: convolve, (x, weights, out);
    selective_step: selective_step, (decay, x, b, c, state, y);
    delta_step: delta_step, (decay_beta, q, k, v, state, y);
    dequantize: dequantize, (rows, out);
};

compiled_for! {
    "avx2":
    fn row_pairs(bits: CodeBits, group: usize) -> usize = activations::row_pairs;
    fn quantize_group(values: &[f32], codes: &mut [i16], terms: &mut Terms) -> bool = activations::quantize_group;
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
