use std::ops::Range;

use super::{Product, Scratch};
use crate::float::FloatType;
use crate::isa::{FloatInput, Kernels};
use crate::matrix::DecodedStorage;
use crate::mx::Mx;
use crate::tile::{FLOAT_PANEL_K, FloatRows, Lanes, Rows, TILE};
use crate::widen::NarrowFormat;

/// Columns decoded at a time: a stretch of each row that is worth prefetching, and 128 KiB of `f32`, which fits the L2
/// cache.
const DECODED_K: usize = 4 * FLOAT_PANEL_K;

impl Product<'_> {
    /// Computes the product with weights that are decoded to `f32`, some columns of a tile at a time.
    pub(super) fn sum_decoded(
        &self,
        kernels: &Kernels,
        w: DecodedStorage<'_>,
        x: FloatInput<'_>,
        columns: Range<usize>,
        scratch: &mut Scratch,
    ) {
        let Scratch { acc, floats, widened: [decoded, ..], spare: [spare_codes, spare_scales, _], .. } =
            scratch;
        let codes = Rows::tiles(w.codes, w.format.codes_bytes(self.k), columns.clone(), spare_codes);
        let scales = Rows::tiles(w.scales, self.k / w.format.group_size(), columns.clone(), spare_scales);
        for ((codes, scales), acc) in codes.zip(scales).zip(acc.chunks_exact_mut(self.acc_rows())) {
            for start in (0..self.k).step_by(DECODED_K) {
                let end = self.k.min(start + DECODED_K);
                let row_bytes = (end - start) * FloatType::F32.size_bytes();
                decoded.resize(TILE * row_bytes, 0);
                for (row_idx, decoded) in decoded.chunks_exact_mut(row_bytes).enumerate() {
                    let group_size = w.format.group_size();
                    let scales = &scales.row(row_idx)[start / group_size..end / group_size];
                    let narrow = match w.format {
                        Mx::Nv4 => NarrowFormat::Nvfp4 { scales },
                        _ => NarrowFormat::E4m3 { exponents: scales },
                    };
                    let codes = &codes.row(row_idx)[w.format.codes_bytes(start)..w.format.codes_bytes(end)];
                    (kernels.widen)(narrow, codes, decoded);
                }
                let rows = Rows::whole(decoded, row_bytes);
                let rows = FloatRows::new(rows, FloatType::F32);
                if self.is_direct() {
                    for (x, acc) in x.values.chunks_exact(self.k).zip(&mut *acc) {
                        (kernels.multiply_floats)(rows, &x[start..end], acc);
                    }
                } else {
                    let len = end - start;
                    for panel_start in (0..len).step_by(FLOAT_PANEL_K) {
                        let panel = panel_start..len.min(panel_start + FLOAT_PANEL_K);
                        floats.resize(panel.len(), Lanes::ZERO);
                        (kernels.decode)(rows, panel, floats);
                        let floats = floats.as_slice().into();
                        (kernels.multiply_lanes)(floats, start + panel_start, x, &mut acc[..self.m]);
                    }
                }
            }
        }
    }
}
