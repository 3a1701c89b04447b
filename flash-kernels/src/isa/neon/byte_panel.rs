//! Many rows of activations, multiplied byte by byte: a panel holds one byte per code.
//!
//! 8 codes of each row of a tile are multiplied at a time, with the [digits](super::digits) of activations.

use std::ops::Range;

use super::codes::Vector;
use super::digits::RowDigits;
use super::i8mm::{self, PAIRS};
use super::intrinsics::*;
use super::panel::{QUADS_STEP, multiply_with};
use super::vectors::{load, store, transpose};
use super::{LANES, QUADS};
use crate::activations::{FixedRows, ROW_STEP};
use crate::chains::Link;
use crate::isa::Sums;
use crate::tile::{CodeBits, CodePairs, CodePanel, CodeRows, GroupLanes, TILE};

/// 8 codes of each row of a tile. For dot products: 4 codes of each row, then the next 4. For matrices: 8 codes of each.
type Step = [Vector; 2 * QUADS];

/// [`Kernels::unpack_codes`](crate::isa::Kernels::unpack_codes) for products of matrices: 8 codes of two rows in a
/// vector.
pub(super) fn unpack_for_matrices(rows: CodeRows<'_>, links: &[Link], panel: &mut CodePanel) {
    match rows.bits {
        CodeBits::Four => unpack::<4>(rows, links, panel, |quad, rows, steps| {
            store_pairs(quad, i8mm::extract(rows), steps);
        }),
        CodeBits::Eight => unpack::<2>(rows, links, panel, |quad, rows, steps| {
            store_pairs(quad, i8mm::extract(rows), steps);
        }),
    }
}

/// [`Kernels::unpack_codes`](crate::isa::Kernels::unpack_codes) for dot products: 4 codes of four rows in a vector, those
/// of 8 bits reduced by 128.
pub(super) fn unpack_for_dots(rows: CodeRows<'_>, links: &[Link], panel: &mut CodePanel) {
    match rows.bits {
        CodeBits::Four => unpack::<4>(rows, links, panel, |quad, rows, steps| {
            let mask = vdupq_n_u8(15);
            for (word, codes) in words(rows).into_iter().enumerate() {
                let (half, at) = (word / 2, QUADS * (word % 2) + quad);
                store(&mut steps[2 * half][at], vandq_u8(codes, mask));
                store(&mut steps[2 * half + 1][at], vshrq_n_u8::<4>(codes));
            }
        }),
        CodeBits::Eight => unpack::<2>(rows, links, panel, |quad, rows, steps| {
            let sign = vdupq_n_u8(128);
            for (word, codes) in words(rows).into_iter().enumerate() {
                let (half, at) = (word / 2, QUADS * (word % 2) + quad);
                store(&mut steps[half][at], veorq_u8(codes, sign));
            }
        }),
    }
}

/// Unpacks groups with `extract`, which gets the index of four rows, a vector of each, and the steps of its codes.
#[inline(always)]
fn unpack<const STEPS: usize>(
    rows: CodeRows<'_>,
    links: &[Link],
    panel: &mut CodePanel,
    extract: impl Fn(usize, [&Vector; LANES], &mut [Step; STEPS]),
) {
    let (group_pairs, group_bytes) = (rows.group / 4, rows.bits.bytes(rows.group));
    panel.pairs.resize(links.len() * group_pairs, CodePairs([[0; 2]; TILE]));
    for (link, pairs) in links.iter().zip(panel.pairs.chunks_exact_mut(group_pairs)) {
        let bytes = link.group_idx * group_bytes..(link.group_idx + 1) * group_bytes;
        let steps: &mut [Step] = bytemuck::cast_slice_mut(pairs);
        for quad in 0..QUADS {
            let mut vectors: [&[Vector]; LANES] = [&[]; LANES];
            for (lane, vectors) in vectors.iter_mut().enumerate() {
                *vectors = rows.rows.row(quad * LANES + lane)[bytes.clone()].as_chunks().0;
            }
            for (at, steps) in steps.as_chunks_mut().0.iter_mut().enumerate() {
                let [a, b, c, d] = vectors;
                extract(quad, [&a[at], &b[at], &c[at], &d[at]], steps);
            }
        }
    }
}

#[inline(always)]
fn store_pairs<const STEPS: usize>(
    quad: usize,
    codes: [[uint8x16_t; PAIRS]; STEPS],
    steps: &mut [Step; STEPS],
) {
    for step in 0..STEPS {
        for pair in 0..PAIRS {
            store(&mut steps[step][PAIRS * quad + pair], codes[step][pair]);
        }
    }
}

/// Returns each word of four rows.
#[inline(always)]
fn words(rows: [&Vector; LANES]) -> [uint8x16_t; LANES] {
    let mut vectors = [vreinterpretq_u32_u8(vdupq_n_u8(0)); LANES];
    for (vector, row) in vectors.iter_mut().zip(rows) {
        *vector = vreinterpretq_u32_u8(load(row));
    }
    let [a, b, c, d] = transpose(vectors);
    [vreinterpretq_u8_u32(a), vreinterpretq_u8_u32(b), vreinterpretq_u8_u32(c), vreinterpretq_u8_u32(d)]
}

/// [`Kernels::multiply_panel`](crate::isa::Kernels::multiply_panel) by products of matrices.
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "i8mm"))]
pub(super) fn multiply_by_matrices(
    panel: &CodePanel,
    links: Range<usize>,
    scales: &GroupLanes,
    x: &FixedRows,
    sums: Sums<'_>,
) {
    multiply_with(panel, links, scales, x, sums, |pairs, quad, x, at, row_start| {
        const STEP_PAIRS: usize = PAIRS * QUADS_STEP;
        let (steps, digits) = operands(pairs, x, at);
        let mut sums = [[vdupq_n_s32(0); STEP_PAIRS]; ROW_STEP];
        for at in 0..steps.len() {
            let mut codes = [vdupq_n_u8(0); STEP_PAIRS];
            for pair in 0..STEP_PAIRS {
                codes[pair] = load(&steps[at][PAIRS * quad + pair]);
            }
            for row in 0..ROW_STEP {
                let x = load(&digits[at][row_start + row]);
                for pair in 0..STEP_PAIRS {
                    sums[row][pair] = usmmla(sums[row][pair], codes[pair], x);
                }
            }
        }
        let mut dots = [[vdupq_n_s32(0); QUADS_STEP]; ROW_STEP];
        for row in 0..ROW_STEP {
            let [a, b, c, d] = sums[row];
            dots[row] = [i8mm::add_digits([a, b]), i8mm::add_digits([c, d])];
        }
        dots
    });
}

/// [`Kernels::multiply_panel`](crate::isa::Kernels::multiply_panel) by dot products.
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "dotprod"))]
pub(super) fn multiply_by_dots(
    panel: &CodePanel,
    links: Range<usize>,
    scales: &GroupLanes,
    x: &FixedRows,
    sums: Sums<'_>,
) {
    multiply_with(panel, links, scales, x, sums, |pairs, quad, x, at, row_start| {
        let cross = &x.cross[at];
        let (steps, digits) = operands(pairs, x, at);
        let mut upper = [[vdupq_n_s32(0); QUADS_STEP]; ROW_STEP];
        let mut lower = upper;
        for row in 0..ROW_STEP {
            lower[row] = [vdupq_n_s32(cross[row_start + row]); QUADS_STEP];
        }
        for at in 0..steps.len() {
            let step = &steps[at];
            for row in 0..ROW_STEP {
                let x = load(&digits[at][row_start + row]);
                for vector in 0..QUADS_STEP {
                    let (first, second) = (load(&step[quad + vector]), load(&step[QUADS + quad + vector]));
                    upper[row][vector] = sdot_word::<0>(upper[row][vector], first, x);
                    lower[row][vector] = sdot_word::<2>(lower[row][vector], first, x);
                    upper[row][vector] = sdot_word::<1>(upper[row][vector], second, x);
                    lower[row][vector] = sdot_word::<3>(lower[row][vector], second, x);
                }
            }
        }
        for row in 0..ROW_STEP {
            for vector in 0..QUADS_STEP {
                lower[row][vector] = vaddq_s32(vshlq_n_s32::<8>(upper[row][vector]), lower[row][vector]);
            }
        }
        lower
    });
}

/// Returns the steps of a group of codes, and the digits of the group `at` of the activations for each.
#[inline(always)]
fn operands<'a>(pairs: &'a [CodePairs], x: &'a FixedRows, at: usize) -> (&'a [Step], &'a [RowDigits]) {
    let steps: &[Step] = bytemuck::cast_slice(pairs);
    (steps, &bytemuck::cast_slice(x.tile_pairs(at))[..steps.len()])
}
