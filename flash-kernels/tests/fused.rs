//! Fused products have the bits of their parts computed one by one.

mod common;

use common::{Format, Random, Weights, all_formats, bits, matmul, pool};
use flash_kernels::{
    FloatType, Floats, Gate, Isa, KernelError, Projection, gated, gated_pairs, matmul_add, matmul_each,
    matmul_gated,
};
use proptest::prelude::*;

#[derive(Debug, Clone)]
struct Case {
    formats: Vec<Format>,
    m: usize,
    n: usize,
    k: usize,
    seed: u64,
}

impl Case {
    fn weights(&self) -> Vec<Weights> {
        let make = |(idx, format): (usize, &Format)| {
            Weights::new(*format, [self.n + 7 * idx, self.k], idx, self.seed ^ idx as u64)
        };
        self.formats.iter().enumerate().map(make).collect()
    }
}

fn case(n_formats: std::ops::Range<usize>) -> impl Strategy<Value = Case> {
    let formats = prop::collection::vec(prop::sample::select(all_formats()), n_formats);
    (formats, 0_usize..40, 1_usize..150, 1_usize..6, any::<u64>()).prop_map(|(formats, m, n, k, seed)| Case {
        formats,
        m,
        n,
        k: 128 * k,
        seed,
    })
}

/// A bias of `n` numbers in bf16.
fn bias(n: usize) -> Vec<u8> {
    let mut bytes = vec![0; 2 * n];
    FloatType::BF16.encode_into(&Random(n as u64).vec(n), &mut bytes).unwrap();
    bytes
}

fn projection<'a>(weights: &'a Weights, bias: Option<&'a [u8]>) -> Projection<'a> {
    Projection { w: weights.matrix(), bias: bias.map(|bytes| Floats { float: FloatType::BF16, bytes }) }
}

/// Computes one product separately.
fn alone(pool: &flash_kernels::Pool, x: &[f32], weights: &Weights, bias: Option<&[u8]>) -> Vec<f32> {
    let Projection { w, bias } = projection(weights, bias);
    let mut y = vec![f32::NAN; x.len() / w.k() * w.n()];
    flash_kernels::matmul(pool, x, &w, bias, &mut y).unwrap();
    y
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn each_product_of_several_is_as_alone(case in case(1..4), n_threads in 1_usize..4) {
        let (weights, x) = (case.weights(), Random(case.seed).vec(case.m * case.k));
        for isa in Isa::available() {
            let pool = pool(n_threads, *isa);
            let biases: Vec<_> = weights.iter().map(|w| bias(w.shape[0])).collect();
            // Every second projection has a bias.
            let bias = |idx: usize| (idx % 2 == 1).then_some(biases[idx].as_slice());
            let projections: Vec<_> =
                weights.iter().enumerate().map(|(idx, w)| projection(w, bias(idx))).collect();
            let mut ys: Vec<_> = weights.iter().map(|w| vec![f32::NAN; case.m * w.shape[0]]).collect();
            let mut slices: Vec<_> = ys.iter_mut().map(Vec::as_mut_slice).collect();
            matmul_each(&pool, &x, &projections, &mut slices).unwrap();
            for (idx, (y, weights)) in ys.iter().zip(&weights).enumerate() {
                prop_assert_eq!(bits(y), bits(&alone(&pool, &x, weights, bias(idx))), "{} {}", isa, idx);
            }
        }
    }

    #[test]
    fn a_sum_is_a_product_and_an_addition(case in case(1..2), has_bias: bool, n_threads in 1_usize..4) {
        let (weights, x) = (case.weights(), Random(case.seed).vec(case.m * case.k));
        let weights = &weights[0];
        let bias = has_bias.then(|| bias(weights.shape[0]));
        for isa in Isa::available() {
            let pool = pool(n_threads, *isa);
            let before = Random(!case.seed).vec(case.m * weights.shape[0]);
            let mut y = vec![f32::NAN; before.len()];
            matmul_add(&pool, &x, projection(weights, bias.as_deref()), &before, &mut y).unwrap();
            let product = alone(&pool, &x, weights, bias.as_deref());
            let wanted: Vec<f32> = before.iter().zip(product).map(|(before, product)| before + product).collect();
            prop_assert_eq!(bits(&y), bits(&wanted), "{}", isa);
        }
    }

    #[test]
    fn a_gated_product_is_two_products_and_the_gate(case in case(2..3), n_threads in 1_usize..4) {
        let x = Random(case.seed).vec(case.m * case.k);
        let [gate, up] = [0, 1].map(|idx| {
            Weights::new(case.formats[idx], [case.n, case.k], idx, case.seed ^ idx as u64)
        });
        let bias = bias(case.n);
        for isa in Isa::available() {
            let pool = pool(n_threads, *isa);
            let mut y = vec![f32::NAN; case.m * case.n];
            let projections = [projection(&gate, None), projection(&up, Some(&bias))];
            let mut wanted = y.clone();
            let products = [alone(&pool, &x, &gate, None), alone(&pool, &x, &up, Some(&bias))];
            for kind in [Gate::Silu, Gate::GeluTanh, Gate::ClampedSilu { alpha: 1.702, limit: 7.0 }] {
                matmul_gated(&pool, kind, &x, projections[0], projections[1], &mut y).unwrap();
                gated(&pool, kind, &products[0], &products[1], &mut wanted);
                prop_assert_eq!(bits(&y), bits(&wanted), "{} {:?}", isa, kind);
            }
        }
    }

    #[test]
    fn interleaved_gate_rows_have_the_bits_of_separate_ones(
        case in case(1..2),
        n_threads in 1_usize..4,
    ) {
        let (x, n) = (Random(case.seed).vec(case.m * case.k), case.n);
        let both = Weights::new(case.formats[0], [2 * n, case.k], 1, case.seed);
        for isa in Isa::available() {
            let pool = pool(n_threads, *isa);
            let pairs = alone(&pool, &x, &both, None);
            // Each set of rows as a separate matrix.
            let mut apart = [(); 2].map(|()| vec![0.0; case.m * n]);
            for row in 0..2 * n {
                let mut column = vec![f32::NAN; case.m];
                flash_kernels::matmul(&pool, &x, &both.matrix().rows(row..row + 1), None, &mut column).unwrap();
                for (m, value) in column.into_iter().enumerate() {
                    apart[row % 2][m * n + row / 2] = value;
                }
            }
            let (mut wanted, mut y) = (vec![f32::NAN; case.m * n], vec![f32::NAN; case.m * n]);
            let kind = Gate::ClampedSilu { alpha: 1.702, limit: 7.0 };
            gated(&pool, kind, &apart[0], &apart[1], &mut wanted);
            gated_pairs(&pool, kind, &pairs, &mut y);
            prop_assert_eq!(bits(&y), bits(&wanted), "{}", isa);
        }
    }
}

#[test]
fn mismatched_lengths_are_errors_and_leave_outputs_unchanged() {
    let pool = pool(2, Isa::Portable);
    let f32s = Format::Float(FloatType::F32);
    let weights = Weights::new(f32s, [3, 4], 0, 1);
    let [narrow, tall] = [[3, 5], [4, 4]].map(|shape| Weights::new(f32s, shape, 0, 1));
    let slice_of = |result| match result {
        Err(KernelError::SliceLen { slice, .. }) => slice,
        other => panic!("{other:?}"),
    };
    let (good, x) = (projection(&weights, None), [1.0; 8]);
    let mut y = [7.0; 6];
    assert_eq!(slice_of(matmul_gated(&pool, Gate::Silu, &x, good, projection(&narrow, None), &mut y)), "x");
    assert_eq!(slice_of(matmul_gated(&pool, Gate::Silu, &x, good, projection(&tall, None), &mut y)), "y");
    assert_eq!(
        slice_of(matmul_add(&pool, &x, projection(&weights, Some(&[0; 5])), &[0.0; 6], &mut y)),
        "bias"
    );
    assert_eq!(slice_of(matmul_add(&pool, &x, good, &[0.0; 5], &mut y)), "onto");
    assert_eq!(slice_of(matmul_add(&pool, &x[1..], good, &[0.0; 6], &mut y)), "x");
    let mut other = [7.0; 7];
    assert_eq!(
        slice_of(matmul_each(&pool, &x, &[good, projection(&tall, None)], &mut [&mut y, &mut other])),
        "y"
    );
    assert_eq!((y, other), ([7.0; 6], [7.0; 7]));
    // The product itself is valid.
    assert_eq!(matmul(&pool, &x, &weights).unwrap().len(), 6);
}

#[test]
fn without_columns_a_product_is_its_bias() {
    let pool = pool(1, Isa::Portable);
    let weights = Weights::new(Format::Float(FloatType::F32), [2, 0], 0, 1);
    let mut bytes = [0; 4];
    FloatType::BF16.encode_into(&[1.5, -2.0], &mut bytes).unwrap();
    let mut y = [0.0; 4];
    matmul_add(&pool, &[], projection(&weights, Some(&bytes)), &[1.0; 4], &mut y).unwrap();
    assert_eq!(y, [2.5, -1.0, 2.5, -1.0]);
}
