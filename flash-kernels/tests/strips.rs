//! Codes in strips give the same bits as codes in rows.

mod common;

use common::{Format, Random, Weights, all_formats, bits, matmul, pool};
use flash_kernels::{FloatType, Isa, KernelError, KernelTuning, Pool, Prefetch, Strips};
use proptest::prelude::*;

const STRIPS: Strips = Strips::SIXTEEN_ROWS;

/// Formats whose codes may be in strips.
fn formats() -> Vec<Format> {
    let is_one = |format: &Format| matches!(format, Format::Affine { bits: 4 | 8, .. });
    all_formats().into_iter().filter(is_one).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn products_have_the_bits_of_rows(
        format in prop::sample::select(formats()),
        m in prop_oneof![3 => 1_usize..6, 1 => 6_usize..40],
        n_strips in 1_usize..20,
        n_groups in prop_oneof![3 => 1_usize..12, 1 => 12_usize..90],
        offset in 0_usize..8,
        n_threads in 1_usize..=4,
        prefetch in prop::sample::select(vec![Prefetch::Near, Prefetch::NonTemporal, Prefetch::Far]),
        seed in any::<u64>(),
    ) {
        let k = n_groups * format.group();
        let weights = Weights::new(format, [n_strips * STRIPS.rows(), k], offset, seed);
        let rearranged = weights.rearranged(STRIPS);
        // One activation in some thousand has no fixed-point representation, so that single codes are looked up, too.
        let mut x = Random(seed ^ 1).vec(m * k);
        if seed % 3 == 0 {
            x[seed as usize % (m * k)] = f32::INFINITY;
        }
        for isa in Isa::available() {
            let pool = pool(n_threads, *isa);
            let rows = matmul(&pool, &x, &weights).unwrap();
            let tuned = Pool::new(KernelTuning { prefetch, ..*pool.tuning() }).unwrap();
            prop_assert_eq!(bits(&matmul(&tuned, &x, &weights).unwrap()), bits(&rows), "{}, {}", isa, prefetch);
            let mut y = vec![0.0; rows.len()];
            let matrix = rearranged.matrix().in_strips(STRIPS).unwrap();
            flash_kernels::matmul(&tuned, &x, &matrix, None, &mut y).unwrap();
            prop_assert_eq!(bits(&y), bits(&rows), "{}, {}", isa, prefetch);
        }
    }
}

#[test]
fn some_rows_of_strips_are_those_of_the_matrix() {
    let format = Format::Affine { bits: 4, group: 64, float: FloatType::F16 };
    let weights = Weights::new(format, [64, 640], 1, 5);
    let x = Random(6).vec(640);
    let rearranged = weights.rearranged(STRIPS);
    let matrix = rearranged.matrix().in_strips(STRIPS).unwrap();
    let rows = STRIPS.rows()..3 * STRIPS.rows();
    for isa in Isa::available() {
        let pool = pool(1, *isa);
        let all = matmul(&pool, &x, &weights).unwrap();
        let mut some = vec![0.0; rows.len()];
        flash_kernels::matmul(&pool, &x, &matrix.rows(rows.clone()), None, &mut some).unwrap();
        assert_eq!(bits(&some), bits(&all[rows.clone()]), "{isa}");
    }
}

#[test]
#[should_panic(expected = "of strips")]
fn a_strip_is_not_cut() {
    let format = Format::Affine { bits: 8, group: 32, float: FloatType::F32 };
    Weights::new(format, [32, 64], 0, 1).rearranged(STRIPS).matrix().in_strips(STRIPS).unwrap().rows(2..16);
}

#[test]
fn formats_without_strips_are_errors() {
    for format in all_formats() {
        let strip_rows = STRIPS.rows();
        let n_rows = if formats().contains(&format) { 2 * strip_rows + 1 } else { 2 * strip_rows };
        let weights = Weights::new(format, [n_rows, 128], 0, 1);
        let refused = weights.matrix().in_strips(STRIPS).map(|_| ());
        assert_eq!(refused, Err(KernelError::Strips { n_rows, strip_rows }), "{format:?}");
    }
}
