//! Kernels for processors with a matrix unit (Intel's AMX, for bytes): many rows of activations are multiplied by it.
//! Everything else, and what comes before and behind, is as for AVX-512, which all of these have.

mod panel;
mod rows;
mod unit;

use super::{Kernels, avx512};

pub(super) fn is_available() -> bool {
    avx512::is_available() && unit::is_available()
}

pub(super) static KERNELS: Kernels = kernels! {
    ..avx512::KERNELS;
    pack_rows: rows::pack, (bits, codes, pairs, cross);
    unpack_codes: panel::unpack, (rows, links, panel);
    multiply_panel: panel::multiply, (panel, links, scales, x, sums);
};
