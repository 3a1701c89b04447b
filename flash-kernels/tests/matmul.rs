//! Properties of products for every format, shape, instruction set and number of threads.

mod common;

use common::{Format, Random, Weights, all_formats, bits, matmul, pool};
use flash_kernels::{FloatType, Floats, Isa, KernelError, Matrix, Mx};
use proptest::prelude::*;

/// Sizes around those of tiles and panels, and others.
fn size(max: usize) -> impl Strategy<Value = usize> {
    let edges = [1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 513];
    prop_oneof![
        prop::sample::select(edges.into_iter().filter(|edge| *edge <= max).collect::<Vec<_>>()),
        1..=max
    ]
}

/// Parameters of a random product.
#[derive(Debug, Clone, Copy)]
struct Case {
    format: Format,
    m: usize,
    n: usize,
    k: usize,
    offset: usize,
    seed: u64,
}

impl Case {
    fn make(self) -> (Weights, Vec<f32>) {
        let k = self.k.next_multiple_of(self.format.group());
        let weights = Weights::new(self.format, [self.n, k], self.offset, self.seed);
        (weights, Random(self.seed ^ 1).vec(self.m * k))
    }
}

fn case() -> impl Strategy<Value = Case> {
    // One dimension at a time is long, to keep the products fast.
    let shape = prop_oneof![
        7 => (size(40), size(200), size(600)),
        1 => (1..=4096_usize, size(20), size(65)),
        1 => (size(6), 1..=4096_usize, size(65)),
        1 => (size(6), size(65), 1..=4096_usize),
    ];
    (prop::sample::select(all_formats()), shape, 0_usize..8, any::<u64>())
        .prop_map(|(format, (m, n, k), offset, seed)| Case { format, m, n, k, offset, seed })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn errors_are_below_the_stated_bound(case in case(), n_threads in 1_usize..=4) {
        let (weights, x) = case.make();
        let reference = weights.reference(&x);
        for isa in Isa::available() {
            let y = matmul(&pool(n_threads, *isa), &x, &weights).unwrap();
            for (idx, (y, (wanted, size))) in y.iter().zip(&reference).enumerate() {
                let error = (f64::from(*y) - wanted).abs() / size;
                prop_assert!(error <= weights.tolerance(), "{isa} {idx}: {y} for {wanted}, error {error}");
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_among_others(case in case(), n_threads in 1_usize..=4) {
        let (weights, x) = case.make();
        let [n, k] = weights.shape;
        for isa in Isa::available() {
            let together = matmul(&pool(n_threads, *isa), &x, &weights).unwrap();
            let single = pool(1, *isa);
            for (row_start, n_rows) in [(0, 1), (case.m / 2, 1), (case.m - 1, 1), (0, 3), (case.m / 3, 5)] {
                let rows = row_start..case.m.min(row_start + n_rows);
                let alone = matmul(&single, &x[rows.start * k..rows.end * k], &weights).unwrap();
                prop_assert_eq!(bits(&alone), bits(&together[rows.start * n..rows.end * n]), "{} {:?}", isa, rows);
            }
        }
    }

    #[test]
    fn integer_products_have_the_same_bits_for_every_instruction_set(case in case()) {
        prop_assume!(case.format.is_exact());
        let (weights, x) = case.make();
        let portable = matmul(&pool(1, Isa::Portable), &x, &weights).unwrap();
        for isa in Isa::available() {
            prop_assert_eq!(bits(&matmul(&pool(2, *isa), &x, &weights).unwrap()), bits(&portable), "{}", isa);
        }
    }
}

#[test]
fn wide_matrices_and_long_batches_are_within_the_bound_too() {
    let four = |float| Format::Affine { bits: 4, group: 64, float };
    let eight = Format::Affine { bits: 8, group: 128, float: FloatType::F16 };
    for (format, m, n, k) in [
        (four(FloatType::F16), 1, 300, 4096),
        (four(FloatType::BF16), 1030, 33, 256),
        (eight, 3, 70, 14336),
        (eight, 520, 17, 384),
        (Format::Float(FloatType::BF16), 1, 4096, 129),
        (Format::Float(FloatType::F16), 515, 40, 300),
        (Format::Float(FloatType::F32), 2, 33, 4096),
    ] {
        let weights = Weights::new(format, [n, k], 2, 7);
        let x = Random(8).vec(m * k);
        let reference = weights.reference(&x);
        for isa in Isa::available() {
            let y = matmul(&pool(2, *isa), &x, &weights).unwrap();
            for (y, (wanted, size)) in y.iter().zip(&reference) {
                let error = (f64::from(*y) - wanted).abs() / size;
                assert!(error <= weights.tolerance(), "{isa} {format:?}: {y} for {wanted}, error {error}");
            }
        }
    }
}

#[test]
fn the_bias_is_added_once_to_each_row() {
    for format in all_formats() {
        let weights = Weights::new(format, [37, 128], 1, 3);
        let x = Random(4).vec(3 * 128);
        let mut bias = [0xAA; 1 + 2 * 37];
        let bias_values = Random(5).vec(37);
        FloatType::BF16.encode_into(&bias_values, &mut bias[1..]).unwrap();
        for isa in Isa::available() {
            let pool = pool(2, *isa);
            let without = matmul(&pool, &x, &weights).unwrap();
            let mut with = vec![0.0; 3 * 37];
            let bias = Floats { float: FloatType::BF16, bytes: &bias[1..] };
            flash_kernels::matmul(&pool, &x, &weights.matrix(), Some(bias), &mut with).unwrap();
            for (idx, (with, without)) in with.iter().zip(&without).enumerate() {
                assert_eq!(*with, without + FloatType::BF16.round(bias_values[idx % 37]));
            }
        }
    }
}

#[test]
fn nan_and_infinity_propagate_to_their_row_and_no_other() {
    for format in all_formats() {
        let weights = Weights::new(format, [40, 256], 0, 11);
        for isa in Isa::available() {
            let pool = pool(2, *isa);
            let finite = Random(12).vec(6 * 256);
            let clean = matmul(&pool, &finite, &weights).unwrap();
            for (bad, m) in [(f32::NAN, 6), (f32::INFINITY, 6), (f32::NEG_INFINITY, 1), (f32::NAN, 1)] {
                let bad_row = m / 2;
                let mut x = finite[..m * 256].to_vec();
                x[bad_row * 256 + 100] = bad;
                let y = matmul(&pool, &x, &weights).unwrap();
                for (idx, y) in y.iter().enumerate() {
                    let (row_idx, column) = (idx / 40, idx % 40);
                    if row_idx != bad_row {
                        assert_eq!(y.to_bits(), clean[idx].to_bits(), "{isa} {format:?}");
                    } else if bad.is_nan() {
                        assert!(y.is_nan(), "{isa} {format:?}: {y}");
                    } else {
                        let wanted = f64::from(bad) * weights.values[column * 256 + 100];
                        // Infinity times zero is NaN.
                        let same = f64::from(*y) == wanted || (y.is_nan() && wanted.is_nan());
                        assert!(same, "{isa} {format:?}: {y} for {wanted}");
                    }
                }
            }
        }
    }
}

#[test]
fn weights_that_are_not_finite_reach_their_column_and_no_other() {
    // nvfp4 can only store finite values.
    for format in all_formats().into_iter().filter(|format| *format != Format::Mx(Mx::Nv4)) {
        let clean = Weights::new(format, [70, 256], 1, 11);
        let mut corrupted = Weights::new(format, [70, 256], 1, 11);
        for column in [0, 33, 69] {
            corrupted.corrupt(column);
        }
        for isa in Isa::available() {
            let pool = pool(2, *isa);
            for m in [1, 4, 5, 17] {
                let x = Random(12).vec(m * 256);
                let clean = matmul(&pool, &x, &clean).unwrap();
                for (idx, y) in matmul(&pool, &x, &corrupted).unwrap().iter().enumerate() {
                    if [0, 33, 69].contains(&(idx % 70)) {
                        assert!(!y.is_finite(), "{isa} {format:?}: {y}");
                    } else {
                        assert_eq!(y.to_bits(), clean[idx].to_bits(), "{isa} {format:?}");
                    }
                }
            }
        }
    }
}

/// Every code with scales up to 2¹⁰⁷: beyond, values soon exceed the range of `f32`.
#[test]
fn microscaling_weights_of_any_magnitude_are_within_the_bound() {
    for mx in [Mx::Fp4, Mx::Fp8, Mx::Nv4] {
        let k = 256;
        let codes: Vec<u8> = (0..mx.codes_bytes(k)).map(|idx| idx as u8).collect();
        let x = Random(14).vec(7 * k);
        for exponent in (0..=234).step_by(13) {
            let scales = vec![exponent; k / mx.group_size()];
            let mut values = vec![0.0; k];
            mx.dequantize_row(&codes, &scales, &mut values).unwrap();
            let matrix = match mx {
                Mx::Fp4 => Matrix::mxfp4([1, k], &codes, &scales),
                Mx::Fp8 => Matrix::mxfp8([1, k], &codes, &scales),
                Mx::Nv4 => Matrix::nvfp4([1, k], &codes, &scales),
            };
            let matrix = matrix.unwrap();
            for isa in Isa::available() {
                let mut y = [f32::NAN; 7];
                flash_kernels::matmul(&pool(1, *isa), &x, &matrix, None, &mut y).unwrap();
                for (y, x) in y.iter().zip(x.chunks_exact(k)) {
                    let products = x.iter().zip(&values).map(|(x, w)| f64::from(*x) * f64::from(*w));
                    let (wanted, size) =
                        products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
                    // Half a unit in the last place for each subnormal product and sum.
                    let tiny = k as f64 * f64::from(f32::from_bits(1));
                    let bound = size * 2f64.powi(-14) + tiny;
                    let error = (f64::from(*y) - wanted).abs();
                    assert!(error <= bound, "{isa} {mx:?} {exponent}: {y:e} for {wanted:e}");
                }
            }
        }
    }
}

#[test]
fn matrices_without_rows_or_columns_work_in_every_format() {
    for format in all_formats() {
        let pool = pool(2, Isa::Portable);
        let x = vec![1.0; 2 * format.group()];
        let no_rows = Weights::new(format, [0, format.group()], 1, 1);
        flash_kernels::matmul(&pool, &x, &no_rows.matrix(), None, &mut []).unwrap();
        let no_columns = Weights::new(format, [3, 0], 1, 1);
        let mut y = [f32::NAN; 6];
        flash_kernels::matmul(&pool, &[], &no_columns.matrix(), None, &mut y).unwrap();
        assert_eq!(y, [0.0; 6], "{format:?}");
        let one = Weights::new(format, [1, format.group()], 1, 1);
        flash_kernels::matmul(&pool, &[], &one.matrix(), None, &mut []).unwrap();
    }
}

#[test]
fn activations_of_extreme_magnitude_keep_their_precision() {
    let format = Format::Affine { bits: 4, group: 32, float: FloatType::F32 };
    let weights = Weights::new(format, [40, 64], 0, 11);
    for isa in Isa::available() {
        let pool = pool(1, *isa);
        for magnitude in [1e-44, 1e-36, 1e-31, 1e-20, 1e20, 1e31, 1e35] {
            let x: Vec<f32> = Random(13).vec(64).iter().map(|x| x * magnitude).collect();
            let reference = weights.reference(&x);
            for (y, (wanted, size)) in matmul(&pool, &x, &weights).unwrap().iter().zip(reference) {
                // Half a unit in the last place for each subnormal product and sum.
                let tiny = 128.0 * f64::from(f32::from_bits(1));
                let error = (f64::from(*y) - wanted).abs();
                assert!(error <= size * weights.tolerance() + tiny, "{isa} {magnitude}: {y} for {wanted}");
            }
        }
    }
}

#[test]
fn the_greatest_codes_and_activations_do_not_overflow() {
    for (bits, group) in [(4, 32), (4, 64), (4, 128), (8, 32), (8, 64), (8, 128)] {
        let weights = Weights::of_greatest_codes(bits, group, [33, 256]);
        // Values of one magnitude all become the largest fixed-point number.
        for (m, greatest) in [(1, 1.0_f32), (1, -1.0), (6, 1.0), (6, -1.0)] {
            // Some values are a little smaller, so that sums are odd.
            let little = |idx: usize| if idx % 5 == 3 { 3.1e-5 } else { 0.0 };
            let x: Vec<f32> = (0..m * 256).map(|idx| greatest * (1.0 - little(idx))).collect();
            let reference = weights.reference(&x);
            let portable = matmul(&pool(1, Isa::Portable), &x, &weights).unwrap();
            for isa in Isa::available() {
                let ys = matmul(&pool(2, *isa), &x, &weights).unwrap();
                assert_eq!(common::bits(&ys), common::bits(&portable), "{isa} {bits} {group}");
                for (y, (wanted, size)) in ys.iter().zip(&reference) {
                    let error = (f64::from(*y) - wanted).abs() / size;
                    assert!(error <= weights.tolerance(), "{isa} {bits} {group}: {y} for {wanted}");
                }
            }
        }
    }
}

#[test]
fn a_group_of_zeros_contributes_nothing() {
    let format = Format::Affine { bits: 8, group: 64, float: FloatType::F16 };
    let weights = Weights::new(format, [33, 192], 0, 17);
    for isa in Isa::available() {
        let y = matmul(&pool(2, *isa), &[0.0; 192 * 7], &weights).unwrap();
        assert!(y.iter().all(|y| *y == 0.0));
    }
}

#[test]
fn empty_shapes_work() {
    let empty = Floats { float: FloatType::F32, bytes: &[] };
    for isa in Isa::available() {
        let pool = pool(2, *isa);
        let product = |matrix: &Matrix<'_>, x: &[f32], bias, y: &mut [f32]| {
            flash_kernels::matmul(&pool, x, matrix, bias, y)
        };
        let weights = Weights::new(Format::Float(FloatType::F32), [3, 4], 0, 1);
        product(&weights.matrix(), &[], None, &mut []).unwrap();
        product(&Matrix::float([0, 4], empty).unwrap(), &[1.0; 4], None, &mut []).unwrap();

        let mut y = [f32::NAN; 6];
        product(&Matrix::float([3, 0], empty).unwrap(), &[], None, &mut y).unwrap();
        assert_eq!(y, [0.0; 6]);
        let bytes: Vec<u8> = [1.0f32, 2.0, 3.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let bias = Floats { float: FloatType::F32, bytes: &bytes };
        product(
            &Matrix::affine([3, 0], 4, 64, &[], FloatType::F16, &[], &[]).unwrap(),
            &[],
            Some(bias),
            &mut y,
        )
        .unwrap();
        assert_eq!(y, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
    }
}

#[test]
fn slices_that_do_not_fit_the_shape_are_named() {
    let f16 = FloatType::F16;
    let affine = |shape, bits, group, codes: usize, scales: usize, biases: usize| {
        let (codes, scales, biases) = (vec![0; codes], vec![0; scales], vec![0; biases]);
        Matrix::affine(shape, bits, group, &codes, f16, &scales, &biases).map(|matrix| matrix.size_bytes())
    };
    assert_eq!(affine([3, 64], 4, 32, 96, 12, 12), Ok(120));
    assert_eq!(affine([3, 64], 7, 32, 168, 12, 12), Err(KernelError::Bits { bits: 7 }));
    assert_eq!(affine([3, 64], 4, 16, 96, 24, 24), Err(KernelError::GroupSize { group_size: 16 }));
    let partial = KernelError::PartialGroup { n_values: 65, group_size: 32 };
    assert_eq!(affine([3, 65], 4, 32, 96, 12, 12), Err(partial));
    let wrong = |slice, wanted_bytes, got_bytes| KernelError::SliceLen { slice, wanted_bytes, got_bytes };
    assert_eq!(affine([3, 64], 4, 32, 95, 12, 12), Err(wrong("codes", 96, 95)));
    assert_eq!(affine([3, 64], 4, 32, 96, 14, 12), Err(wrong("scales", 12, 14)));
    assert_eq!(affine([3, 64], 4, 32, 96, 12, 11), Err(wrong("biases", 12, 11)));
    assert!(affine([usize::MAX, 64], 4, 32, 96, 12, 12).is_err());

    let bytes = [0; 200];
    let mxfp4 = |k, codes: usize, scales: usize| {
        Matrix::mxfp4([3, k], &bytes[..codes], &bytes[..scales]).map(|matrix| matrix.size_bytes())
    };
    let mxfp8 = |k, codes: usize, scales: usize| {
        Matrix::mxfp8([3, k], &bytes[..codes], &bytes[..scales]).map(|matrix| matrix.size_bytes())
    };
    assert_eq!((mxfp4(64, 96, 6), mxfp8(64, 192, 6)), (Ok(102), Ok(198)));
    let partial = KernelError::PartialGroup { n_values: 48, group_size: 32 };
    assert_eq!((mxfp4(48, 72, 6), mxfp8(48, 144, 6)), (Err(partial.clone()), Err(partial)));
    assert_eq!(
        (mxfp4(64, 97, 6), mxfp4(64, 96, 5)),
        (Err(wrong("codes", 96, 97)), Err(wrong("scales", 6, 5)))
    );
    assert_eq!(
        (mxfp8(64, 96, 6), mxfp8(64, 192, 7)),
        (Err(wrong("codes", 192, 96)), Err(wrong("scales", 6, 7)))
    );

    let weights = Weights::new(Format::Float(f16), [3, 4], 0, 1);
    let float = |bytes: &[u8]| Matrix::float([3, 4], Floats { float: f16, bytes }).map(|_| ());
    assert_eq!(float(&[0; 23]), Err(wrong("floats", 24, 23)));
    let pool = pool(1, Isa::Portable);
    let product = |x: usize, bias: Option<usize>, y: usize| {
        let bias = bias.map(|len| vec![0; len]);
        let bias = bias.as_ref().map(|bytes| Floats { float: f16, bytes });
        flash_kernels::matmul(&pool, &vec![0.0; x], &weights.matrix(), bias, &mut vec![0.0; y])
    };
    assert_eq!(product(8, Some(6), 6), Ok(()));
    assert_eq!(product(8, None, 7), Err(wrong("y", 24, 28)));
    assert_eq!(product(9, None, 6), Err(wrong("x", 32, 36)));
    assert_eq!(product(8, Some(5), 6), Err(wrong("bias", 6, 5)));
}
