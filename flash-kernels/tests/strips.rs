//! Codes in strips give the same bits as codes in rows.

mod common;

use common::{Format, Random, Weights, all_formats, bits, matmul, pool};
use flash_kernels::{FloatType, Isa, KernelError, STRIP_ROWS};
use proptest::prelude::*;

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
        n_strips in 1_usize..60,
        n_groups in prop_oneof![3 => 1_usize..12, 1 => 12_usize..90],
        offset in 0_usize..8,
        n_threads in 1_usize..=4,
        seed in any::<u64>(),
    ) {
        let k = n_groups * format.group();
        let weights = Weights::new(format, [n_strips * STRIP_ROWS, k], offset, seed);
        let rearranged = weights.rearranged();
        // One activation in some thousand has no fixed-point representation, so that single codes are looked up, too.
        let mut x = Random(seed ^ 1).vec(m * k);
        if seed % 3 == 0 {
            x[seed as usize % (m * k)] = f32::INFINITY;
        }
        for isa in Isa::available() {
            let pool = pool(n_threads, *isa);
            let rows = matmul(&pool, &x, &weights).unwrap();
            let mut strips = vec![0.0; rows.len()];
            let matrix = rearranged.matrix().in_strips().unwrap();
            flash_kernels::matmul(&pool, &x, &matrix, None, &mut strips).unwrap();
            prop_assert_eq!(bits(&strips), bits(&rows), "{}", isa);
        }
    }
}

#[test]
fn some_rows_of_strips_are_those_of_the_matrix() {
    let format = Format::Affine { bits: 4, group: 64, float: FloatType::F16 };
    let weights = Weights::new(format, [64, 640], 1, 5);
    let rearranged = weights.rearranged();
    let strips = rearranged.matrix().in_strips().unwrap();
    let x = Random(6).vec(640);
    for isa in Isa::available() {
        let pool = pool(1, *isa);
        let all = matmul(&pool, &x, &weights).unwrap();
        let mut some = vec![0.0; 24];
        flash_kernels::matmul(&pool, &x, &strips.rows(12..36), None, &mut some).unwrap();
        assert_eq!(bits(&some), bits(&all[12..36]));
    }
}

#[test]
#[should_panic(expected = "of strips")]
fn a_strip_is_not_cut() {
    let format = Format::Affine { bits: 8, group: 32, float: FloatType::F32 };
    Weights::new(format, [8, 64], 0, 1).rearranged().matrix().in_strips().unwrap().rows(2..8);
}

#[test]
fn formats_without_strips_are_errors() {
    for format in all_formats() {
        let n_rows = if formats().contains(&format) { 2 * STRIP_ROWS + 1 } else { 2 * STRIP_ROWS };
        let weights = Weights::new(format, [n_rows, 128], 0, 1);
        let refused = weights.matrix().in_strips().map(|_| ());
        assert_eq!(refused, Err(KernelError::Strips { n_rows }), "{format:?}");
    }
}
