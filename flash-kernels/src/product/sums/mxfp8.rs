use std::ops::Range;

use super::super::ROWS_DIRECT;
use super::{Product, Scratch};
use crate::float::FloatType;
use crate::isa::{FloatInput, Kernels};
use crate::matrix::Mxfp8Storage;
use crate::mx;
use crate::tile::{FLOAT_PANEL_K, FloatRows, Lanes, Rows, TILE};
use crate::widen::Narrow;

/// Columns that are decoded at a time: a stretch of each row that is worth prefetching, and 128 KiB of `f32`, which the
/// second cache holds.
const DECODED_K: usize = 4 * FLOAT_PANEL_K;

impl Product<'_> {
    /// The product with weights that are decoded to `f32`, some columns of a tile at a time, and then multiplied as such.
    pub(super) fn sum_mxfp8(
        &self,
        kernels: &Kernels,
        w: Mxfp8Storage<'_>,
        x: FloatInput<'_>,
        columns: Range<usize>,
        scratch: &mut Scratch,
    ) {
        let Scratch { acc, floats, widened: [decoded, ..], spare: [spare_codes, spare_scales, _], .. } =
            scratch;
        let codes = Rows::tiles(w.codes, self.k, columns.clone(), spare_codes);
        let scales = Rows::tiles(w.scales, self.k / mx::GROUP, columns.clone(), spare_scales);
        for ((codes, scales), acc) in codes.zip(scales).zip(acc.chunks_exact_mut(self.acc_rows())) {
            for start in (0..self.k).step_by(DECODED_K) {
                let end = self.k.min(start + DECODED_K);
                let row_bytes = (end - start) * FloatType::F32.size_bytes();
                decoded.resize(TILE * row_bytes, 0);
                for (row_idx, decoded) in decoded.chunks_exact_mut(row_bytes).enumerate() {
                    let exponents = &scales.row(row_idx)[start / mx::GROUP..end / mx::GROUP];
                    let narrow = Narrow::E4m3 { exponents };
                    (kernels.widen)(narrow, &codes.row(row_idx)[start..end], decoded);
                }
                let rows = Rows::whole(decoded, row_bytes);
                let rows = FloatRows { rows, float: FloatType::F32 };
                if self.m <= ROWS_DIRECT {
                    for (x, acc) in x.values.chunks_exact(self.k).zip(&mut *acc) {
                        (kernels.multiply_floats)(rows, &x[start..end], acc);
                    }
                } else {
                    let len = end - start;
                    for panel_start in (0..len).step_by(FLOAT_PANEL_K) {
                        let panel = panel_start..len.min(panel_start + FLOAT_PANEL_K);
                        floats.resize(panel.len(), Lanes::ZERO);
                        (kernels.decode)(rows, panel, floats);
                        (kernels.multiply_lanes)(floats, start + panel_start, x, &mut acc[..self.m]);
                    }
                }
            }
        }
    }
}
