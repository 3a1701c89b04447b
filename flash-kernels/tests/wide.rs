//! Products with 30-bit activations.

mod common;

use common::{Format, Random, Weights, all_formats, bits, pool};
use flash_kernels::{FloatType, Floats, Gate, Isa, MatrixStack, Pool, Projection, Strips};
use flash_kernels::{gather_matmul, matmul, matmul_add, matmul_each, matmul_gated};

/// Activations of very different magnitudes, so that most are small next to the largest of their group.
fn activations(m: usize, k: usize) -> Vec<f32> {
    let mut random = Random(17);
    (0..m * k).map(|_| random.normal() * (random.unit() * 4.0).exp()).collect()
}

fn wide(pool: &Pool, x: &[f32], weights: &Weights) -> Vec<f32> {
    let [n, k] = weights.shape;
    let mut y = vec![f32::NAN; x.len() / k * n];
    matmul(pool, x, &weights.matrix().wide(), None, &mut y).unwrap();
    y
}

/// Maximum error relative to the sum of the products' magnitudes.
fn error(y: &[f32], weights: &Weights, x: &[f32]) -> f64 {
    let errors =
        y.iter().zip(weights.reference(x)).map(|(y, (wanted, size))| (f64::from(*y) - wanted).abs() / size);
    errors.fold(0.0, f64::max)
}

#[test]
fn wide_products_err_as_sums_in_f32_do() {
    let pool = pool(2, *Isa::available().last().unwrap());
    for format in all_formats().into_iter().filter(|format| format.is_exact()) {
        let weights = Weights::new(format, [70, 512], 3, 5);
        for m in [1, 2, 3, 40] {
            let x = activations(m, 512);
            let got = error(&wide(&pool, &x, &weights), &weights, &x);
            assert!(got < 2f64.powi(-21), "{format:?}, {m} rows: {got:e}");
        }
        let x = activations(40, 512);
        let narrow = error(&common::matmul(&pool, &x, &weights).unwrap(), &weights, &x);
        assert!(narrow > 2f64.powi(-20), "{format:?}: the rounding of 15 bits shows, {narrow:e}");
    }
}

#[test]
fn wide_products_have_the_same_bits_in_any_batch_on_any_threads_and_instruction_set() {
    for (width, group) in [(4, 32), (4, 64), (8, 64), (3, 128), (6, 32)] {
        let format = Format::Affine { bits: width, group, float: FloatType::F16 };
        let n = 48;
        let weights = Weights::new(format, [n, 384], 1, 9);
        let x = activations(21, 384);
        let alone: Vec<f32> =
            x.chunks_exact(384).flat_map(|x| wide(&pool(1, Isa::Portable), x, &weights)).collect();
        for isa in Isa::available() {
            for n_threads in [1, 3] {
                let pool = pool(n_threads, *isa);
                for m in [1, 2, 3, 21] {
                    let y: Vec<f32> =
                        x.chunks_exact(m * 384).flat_map(|x| wide(&pool, x, &weights)).collect();
                    assert_eq!(bits(&y), bits(&alone[..y.len()]), "{format:?} {isa} {m}");
                }
                if matches!(width, 4 | 8) {
                    let strips = Strips::SIXTEEN_ROWS;
                    let rearranged = weights.rearranged(strips);
                    let mut y = vec![0.0; n];
                    let matrix = rearranged.matrix().in_strips(strips).unwrap().wide();
                    matmul(&pool, &x[..384], &matrix, None, &mut y).unwrap();
                    assert_eq!(bits(&y), bits(&alone[..n]), "{format:?} {isa}");
                }
            }
        }
    }
}

#[test]
fn wide_products_of_experts_have_the_bits_of_each_alone() {
    let format = Format::Affine { bits: 4, group: 64, float: FloatType::BF16 };
    let experts: Vec<_> = (0..3).map(|seed| Weights::new(format, [40, 256], 0, seed)).collect();
    let stack = MatrixStack::new(experts.iter().map(|expert| expert.matrix().wide()).collect()).unwrap();
    let x = activations(9, 256);
    // Three rows for expert 0, twelve for expert 1, one for expert 2.
    let lhs = [8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 4, 4, 3];
    let rhs = [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 2, 0];
    for isa in Isa::available() {
        let pool = pool(2, *isa);
        let mut y = vec![f32::NAN; 16 * 40];
        gather_matmul(&pool, &x, &stack, None, &lhs, &rhs, &mut y).unwrap();
        for ((y, lhs), rhs) in y.chunks_exact(40).zip(lhs).zip(rhs) {
            let row = &x[lhs as usize * 256..][..256];
            assert_eq!(
                bits(y),
                bits(&wide(&pool, row, &experts[rhs as usize])),
                "{isa}: row {lhs} of expert {rhs}"
            );
        }
    }
}

#[test]
fn epilogues_see_the_sum_of_a_wide_product() {
    let format = Format::Affine { bits: 4, group: 32, float: FloatType::F32 };
    let [a, b] = [1, 2].map(|seed| Weights::new(format, [33, 64], 0, seed));
    let (x, onto) = (activations(3, 64), Random(4).vec(3 * 33));
    let biases = Random(5).vec(33);
    let bias = Floats { float: FloatType::F32, bytes: bytemuck::cast_slice(&biases) };
    let pool = pool(2, *Isa::available().last().unwrap());
    let [wide_a, wide_b] =
        [&a, &b].map(|weights| Projection { w: weights.matrix().wide(), bias: Some(bias) });
    let mut each = [(); 3].map(|()| vec![0.0; 3 * 33]);
    let [sum_a, sum_b, narrow] = &mut each;
    let narrow_b = Projection { w: b.matrix(), bias: Some(bias) };
    matmul_each(&pool, &x, &[wide_a, wide_b, narrow_b], &mut [sum_a, sum_b, narrow]).unwrap();
    let mut y = vec![0.0; 3 * 33];
    matmul(&pool, &x, &b.matrix(), Some(bias), &mut y).unwrap();
    assert_eq!(bits(&y), bits(&each[2]), "beside wide ones, others stay what they are");
    let values = wide(&pool, &x, &a);
    let biased = each[0].iter().zip(&values).enumerate();
    assert!(biased.map(|(idx, (sum, value))| sum - value - biases[idx % 33]).all(|left| left.abs() < 1e-5));
    matmul_add(&pool, &x, wide_a, &onto, &mut y).unwrap();
    let wanted: Vec<f32> = onto.iter().zip(&each[0]).map(|(onto, sum)| sum + onto).collect();
    assert_eq!(bits(&y), bits(&wanted));
    matmul_gated(&pool, Gate::Silu, &x, wide_a, wide_b, &mut y).unwrap();
    let mut gated = vec![0.0; 3 * 33];
    flash_kernels::gated(&pool, Gate::Silu, &each[0], &each[1], &mut gated);
    assert_eq!(bits(&y), bits(&gated));
}

#[test]
fn nonfinite_activations_count_once_in_wide_products() {
    let format = Format::Affine { bits: 4, group: 32, float: FloatType::F32 };
    let weights = Weights::new(format, [33, 64], 0, 3);
    for isa in Isa::available() {
        let pool = pool(1, *isa);
        for m in [1, 5] {
            let mut x = activations(m, 64);
            // So large that its group has no fixed-point representation.
            x[3] = 1e35;
            let got = error(&wide(&pool, &x, &weights), &weights, &x);
            assert!(got < 2f64.powi(-21), "{isa}: {got:e}");
            x[3] = f32::INFINITY;
            let y = wide(&pool, &x, &weights);
            assert!(y[..33].iter().all(|value| !value.is_finite()), "{isa}");
            assert!(y[33..].iter().all(|value| value.is_finite()), "{isa}");
        }
    }
}
