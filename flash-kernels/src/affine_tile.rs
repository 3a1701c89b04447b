use std::ops::Range;

use crate::activations::Exception;
use crate::isa::Kernels;
use crate::matrix::{AffineStorage, Coding};
use crate::prefetch::Prefetch;
use crate::tile::{CodeRows, FloatRows, GroupLanes, Lanes, Layout, Rows};
use crate::widen::widen_e8m0;

/// A tile of affine weights: codes, scales and biases.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AffineTile<'a> {
    pub(crate) codes: CodeRows<'a>,
    pub(crate) scales: FloatRows<'a>,
    pub(crate) biases: FloatRows<'a>,
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "other instruction sets have no choice")
    )]
    pub(crate) prefetch: Prefetch,
}

impl<'a> AffineTile<'a> {
    /// Splits the rows `range` of `w`, each of `k` codes, into tiles. `widened` holds codes, scales and biases that
    /// kernels cannot read as stored; `spare` holds the padded rows of a partial last tile.
    pub(crate) fn of(
        kernels: &Kernels,
        w: &AffineStorage<'a>,
        k: usize,
        range: Range<usize>,
        widened: &'a mut [Vec<u8>; 3],
        spare: &'a mut [Vec<u8>; 3],
    ) -> impl Iterator<Item = Self> {
        let [spare_codes, spare_scales, spare_biases] = spare;
        let [wide_codes, wide_scales, wide_biases] = widened;
        let codes_bytes = k / 8 * w.bits as usize;
        let stored = &w.codes[range.start * codes_bytes..range.end * codes_bytes];
        let (codes, layout) = match (w.narrow(), w.layout) {
            (None, Layout::Strips(strips)) if kernels.strips != Some(strips) => {
                wide_codes.clear();
                wide_codes.extend_from_slice(stored);
                strips.restore(wide_codes, codes_bytes);
                (Rows::tiles(wide_codes, codes_bytes, 0..range.len(), spare_codes), Layout::Rows)
            }
            (None, layout) => (Rows::tiles(w.codes, codes_bytes, range.clone(), spare_codes), layout),
            (Some(narrow), _) => {
                wide_codes.resize(range.len() * k, 0);
                (kernels.widen)(narrow, stored, wide_codes);
                (Rows::tiles(wide_codes, k, 0..range.len(), spare_codes), Layout::Rows)
            }
        };
        let n_groups = k / w.group;
        let floats_bytes = n_groups * w.float.size_bytes();
        let (scales, biases, floats_layout) = match (w.coding, w.layout) {
            (Coding::Affine, Layout::Strips(strips)) if layout == Layout::Rows => {
                for (floats, wide) in [(w.scales, &mut *wide_scales), (w.biases, &mut *wide_biases)] {
                    wide.clear();
                    wide.extend_from_slice(&floats[range.start * floats_bytes..range.end * floats_bytes]);
                    strips.of_floats(w.float).restore(wide, floats_bytes);
                }
                (
                    Rows::tiles(wide_scales, floats_bytes, 0..range.len(), spare_scales),
                    Rows::tiles(wide_biases, floats_bytes, 0..range.len(), spare_biases),
                    Layout::Rows,
                )
            }
            (Coding::Affine, stored) => (
                Rows::tiles(w.scales, floats_bytes, range.clone(), spare_scales),
                Rows::tiles(w.biases, floats_bytes, range, spare_biases),
                match stored {
                    Layout::Strips(strips) => Layout::Strips(strips.of_floats(w.float)),
                    Layout::Rows => Layout::Rows,
                },
            ),
            (Coding::Mxfp4, _) => {
                let exponents = &w.scales[range.start * n_groups..range.end * n_groups];
                widen_e8m0(exponents, wide_scales, wide_biases);
                (
                    Rows::tiles(wide_scales, floats_bytes, 0..range.len(), spare_scales),
                    Rows::tiles(wide_biases, floats_bytes, 0..range.len(), spare_biases),
                    Layout::Rows,
                )
            }
        };
        let (bits, group, float, prefetch) = (w.code_bits(), w.group, w.float, kernels.prefetch);
        let floats = move |rows| FloatRows { rows, layout: floats_layout, float };
        codes.zip(scales.zip(biases)).map(move |(codes, (scales, biases))| Self {
            codes: CodeRows { rows: codes, layout, bits, group },
            scales: floats(scales),
            biases: floats(biases),
            prefetch,
        })
    }

    /// Groups per row.
    pub(crate) fn n_groups(&self) -> usize {
        self.scales.rows.row_bytes() / self.scales.float.size_bytes()
    }

    /// Adds the products of one activation that has no fixed-point representation.
    pub(crate) fn add_exception(&self, exception: &Exception, acc: &mut Lanes) {
        let group_idx = exception.k_idx / self.codes.group;
        for (lane, acc) in acc.0.iter_mut().enumerate() {
            let (scale, bias) = (self.scales.get(lane, group_idx), self.biases.get(lane, group_idx));
            *acc += exception.value * (scale * f32::from(self.codes.code(lane, exception.k_idx)) + bias);
        }
    }
}

impl GroupLanes {
    /// Decodes the scales and biases of a tile.
    pub(crate) fn decode(&mut self, kernels: &Kernels, tile: &AffineTile<'_>) {
        for (rows, out) in [(tile.scales, &mut self.scales), (tile.biases, &mut self.biases)] {
            out.resize(tile.n_groups(), Lanes::ZERO);
            (kernels.decode)(rows, 0..tile.n_groups(), out);
        }
    }
}
