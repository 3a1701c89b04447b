//! Properties of products with one weight matrix per row.

mod common;

use common::{Format, Random, Weights, all_formats, bits, pool};
use flash_kernels::{FloatType, Floats, Isa, KernelError, Matrix, MatrixStack, Pool, gather_matmul};
use proptest::prelude::*;

/// Stacked weights, activations and indices.
struct Case {
    /// All experts, stacked by rows.
    weights: Weights,
    n_experts: usize,
    x: Vec<f32>,
    lhs: Vec<u32>,
    rhs: Vec<u32>,
}

impl Case {
    /// `m` rows with random indices below `m_in` and `n_experts`.
    fn new(format: Format, n_experts: usize, [m, m_in, n, k]: [usize; 4], offset: usize, seed: u64) -> Self {
        let k = k.next_multiple_of(format.group());
        let weights = Weights::new(format, [n_experts * n, k], offset, seed);
        let mut random = Random(seed ^ 1);
        let x = random.vec(m_in * k);
        let mut below = |limit: usize| (0..m).map(|_| (random.bits() % limit as u64) as u32).collect();
        let (lhs, rhs) = (below(m_in), below(n_experts));
        Self { weights, n_experts, x, lhs, rhs }
    }

    fn n(&self) -> usize {
        self.weights.shape[0] / self.n_experts
    }

    fn product(&self, pool: &Pool, bias: Option<Floats<'_>>) -> Vec<f32> {
        let mut y = vec![f32::NAN; self.lhs.len() * self.n()];
        let stack = MatrixStack::split(&self.weights.matrix(), self.n_experts).unwrap();
        gather_matmul(pool, &self.x, &stack, bias, &self.lhs, &self.rhs, &mut y).unwrap();
        y
    }

    /// Computes each row separately.
    fn rows_alone(&self, pool: &Pool, bias: Option<Floats<'_>>) -> Vec<f32> {
        let (n, k) = (self.n(), self.weights.shape[1]);
        let mut y = vec![f32::NAN; self.lhs.len() * n];
        for (y, (lhs, rhs)) in y.chunks_exact_mut(n).zip(self.lhs.iter().zip(&self.rhs)) {
            let (lhs, rhs) = (*lhs as usize, *rhs as usize);
            let matrix = self.weights.matrix().rows(rhs * n..(rhs + 1) * n);
            let bias = bias.map(|all| {
                let bytes_each = n * all.float.size_bytes();
                Floats { bytes: &all.bytes[rhs * bytes_each..][..bytes_each], ..all }
            });
            flash_kernels::matmul(pool, &self.x[lhs * k..][..k], &matrix, bias, y).unwrap();
        }
        y
    }
}

fn case() -> impl Strategy<Value = Case> {
    let format = prop::sample::select(all_formats());
    // Experts with no, one, few and many rows; one dimension at a time is long.
    let shape = prop_oneof![
        7 => (1_usize..12, prop_oneof![1_usize..5, 1_usize..80], 1_usize..100, 1_usize..300),
        1 => (1_usize..4, 1..=4096_usize, 1_usize..10, 1_usize..65),
        1 => (1_usize..4, 1_usize..20, 1..=4096_usize, 1_usize..65),
        1 => (1_usize..4, 1_usize..20, 1_usize..40, 1..=4096_usize),
    ];
    (format, shape, 1_usize..20, 0_usize..8, any::<u64>()).prop_map(
        |(format, (n_experts, m, n, k), m_in, offset, seed)| {
            Case::new(format, n_experts, [m, m_in, n, k], offset, seed)
        },
    )
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (format, shape) = (self.weights.format, self.weights.shape);
        write!(f, "{format:?} {shape:?}, {} experts: {:?} {:?}", self.n_experts, self.lhs, self.rhs)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_row_has_the_bits_of_its_product_alone(case in case(), n_threads in 1_usize..=4) {
        let bias = Random(3).vec(case.weights.shape[0]);
        let mut bytes = vec![0; 2 * bias.len()];
        FloatType::F16.encode_into(&bias, &mut bytes).unwrap();
        let biases = Floats { float: FloatType::F16, bytes: &bytes };
        for isa in Isa::available() {
            for bias in [None, Some(biases)] {
                let alone = case.rows_alone(&pool(1, *isa), bias);
                prop_assert_eq!(bits(&case.product(&pool(n_threads, *isa), bias)), bits(&alone), "{}", isa);
            }
        }
    }
}

#[test]
fn experts_of_more_rows_than_pass_together_have_the_same_bits_too() {
    for format in [
        Format::Affine { bits: 4, group: 64, float: FloatType::F16 },
        Format::Float(FloatType::BF16),
        Format::Mx(flash_kernels::Mx::Fp8),
    ] {
        // 1100 rows of three experts: several waves, and experts of more than one band.
        let mut case = Case::new(format, 3, [1100, 40, 33, 64], 2, 5);
        case.rhs[..600].fill(2);
        for isa in Isa::available() {
            let alone = case.rows_alone(&pool(1, *isa), None);
            assert_eq!(bits(&case.product(&pool(2, *isa), None)), bits(&alone), "{isa} {format:?}");
        }
    }
}

#[test]
fn experts_may_lie_anywhere() {
    let format = Format::Affine { bits: 8, group: 32, float: FloatType::BF16 };
    let apart: Vec<Weights> = (0..3).map(|idx| Weights::new(format, [40, 64], idx, idx as u64)).collect();
    let stack = MatrixStack::new(apart.iter().map(Weights::matrix).collect()).unwrap();
    assert_eq!((stack.n_experts(), stack.n(), stack.k()), (3, 40, 64));
    let pool = pool(2, *Isa::available().last().unwrap());
    let x = Random(1).vec(2 * 64);
    let mut y = vec![0.0; 3 * 40];
    gather_matmul(&pool, &x, &stack, None, &[1, 0, 1], &[2, 0, 1], &mut y).unwrap();
    for ((y, lhs), rhs) in y.chunks_exact(40).zip([1, 0, 1]).zip([2, 0, 1]) {
        let alone = common::matmul(&pool, &x[lhs * 64..][..64], &apart[rhs]).unwrap();
        assert_eq!(bits(y), bits(&alone));
    }
}

#[test]
fn nan_and_infinity_reach_the_rows_that_have_them_and_no_others() {
    for format in all_formats() {
        for m in [6, 60] {
            let clean = Case::new(format, 4, [m, 5, 40, 128], 0, 9);
            for bad in [f32::NAN, f32::INFINITY] {
                let mut case = Case::new(format, 4, [m, 5, 40, 128], 0, 9);
                case.x[3 * case.weights.shape[1] + 17] = bad;
                for isa in Isa::available() {
                    let pool = pool(2, *isa);
                    let (y, clean) = (case.product(&pool, None), clean.product(&pool, None));
                    for ((y, clean), lhs) in y.chunks(40).zip(clean.chunks(40)).zip(&case.lhs) {
                        if *lhs == 3 {
                            assert!(y.iter().all(|y| !y.is_finite()), "{isa} {format:?}: {bad}");
                        } else {
                            assert_eq!(bits(y), bits(clean), "{isa} {format:?}: {bad}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn experts_without_rows_and_products_without_rows_work() {
    let format = Format::Float(FloatType::F32);
    for isa in Isa::available() {
        let pool = pool(2, *isa);
        let mut case = Case::new(format, 7, [9, 3, 5, 8], 0, 1);
        case.rhs.fill(6);
        assert_eq!(bits(&case.product(&pool, None)), bits(&case.rows_alone(&pool, None)));
        (case.lhs, case.rhs) = (Vec::new(), Vec::new());
        assert!(case.product(&pool, None).is_empty());

        let none = MatrixStack::new(Vec::new()).unwrap();
        gather_matmul(&pool, &[], &none, None, &[], &[], &mut []).unwrap();
        let empty = Floats { float: FloatType::F32, bytes: &[] };
        let no_columns = MatrixStack::split(&Matrix::float([4, 0], empty).unwrap(), 2).unwrap();
        let bytes: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let bias = Some(Floats { float: FloatType::F32, bytes: &bytes });
        let mut y = [f32::NAN; 4];
        gather_matmul(&pool, &[], &no_columns, bias, &[0, 7], &[1, 0], &mut y).unwrap();
        assert_eq!(y, [3.0, 4.0, 1.0, 2.0]);
        let no_rows = MatrixStack::split(&Matrix::float([0, 4], empty).unwrap(), 2).unwrap();
        gather_matmul(&pool, &[0.0; 4], &no_rows, None, &[0], &[1], &mut []).unwrap();
    }
}

#[test]
fn mismatched_arguments_are_named() {
    let case = Case::new(Format::Float(FloatType::F16), 3, [2, 2, 4, 8], 0, 1);
    let stack = MatrixStack::split(&case.weights.matrix(), 3).unwrap();
    let pool = pool(1, Isa::Portable);
    let product = |x: usize, bias: Option<usize>, lhs: &[u32], rhs: &[u32], y: usize| {
        let bias = bias.map(|len| vec![0; len]);
        let bias = bias.as_ref().map(|bytes| Floats { float: FloatType::F16, bytes });
        gather_matmul(&pool, &vec![0.0; x], &stack, bias, lhs, rhs, &mut vec![0.0; y])
    };
    let wrong =
        |slice, wanted_bytes, got_bytes| Err(KernelError::SliceLen { slice, wanted_bytes, got_bytes });
    assert_eq!(product(16, Some(24), &[1, 0], &[2, 0], 8), Ok(()));
    assert_eq!(product(16, None, &[1, 0], &[2], 8), wrong("rhs", 8, 4));
    assert_eq!(product(16, None, &[1, 0], &[2, 0], 9), wrong("y", 32, 36));
    assert_eq!(product(17, None, &[1, 0], &[2, 0], 8), wrong("x", 64, 68));
    assert_eq!(product(16, Some(8), &[1, 0], &[2, 0], 8), wrong("bias", 24, 8));
    let beyond = |indices, at, index, limit| Err(KernelError::Index { indices, at, index, limit });
    assert_eq!(product(16, None, &[1, 2], &[2, 0], 8), beyond("lhs", 1, 2, 2));
    assert_eq!(product(16, None, &[1, 0], &[3, 0], 8), beyond("rhs", 0, 3, 3));
    assert_eq!(product(0, None, &[0, 0], &[0, 0], 8), beyond("lhs", 0, 0, 0));
}

#[test]
fn stacks_are_of_one_shape_and_format() {
    let weights = |float, n, k| Weights::new(Format::Float(float), [n, k], 0, 1);
    let first = weights(FloatType::F16, 4, 8);
    for (other, shape) in [
        (weights(FloatType::F16, 5, 8), [5, 8]),
        (weights(FloatType::F16, 4, 9), [4, 9]),
        (weights(FloatType::BF16, 4, 8), [4, 8]),
    ] {
        let err = MatrixStack::new(vec![first.matrix(), first.matrix(), other.matrix()]).unwrap_err();
        assert_eq!(err, KernelError::ExpertMismatch { expert_idx: 2, shape, wanted: [4, 8] });
    }
    for n_experts in [0, 3, 5] {
        let err = MatrixStack::split(&first.matrix(), n_experts).unwrap_err();
        assert_eq!(err, KernelError::UnevenExperts { n_rows: 4, n_experts });
    }
    let stack = MatrixStack::split(&first.matrix(), 2).unwrap();
    assert_eq!(stack.expert(1).map(|matrix| (matrix.n(), matrix.size_bytes())), Some((2, 32)));
    assert!(stack.expert(2).is_none());
}
