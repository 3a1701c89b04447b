use std::num::NonZeroUsize;

use super::KERNELS;
use crate::common::{Format, Random, Weights, all_formats, bits, matmul, pool};
use crate::isa::Isa;
use crate::pool::Pool;

fn neon() -> Pool {
    Pool::with_kernels(NonZeroUsize::MIN, Isa::Neon, &KERNELS)
}

/// `[m, n, k]` around the sizes of vectors, tiles, lines and panels.
const SHAPES: [[usize; 3]; 8] = [
    [1, 1, 32],
    [2, 31, 96],
    [3, 33, 130],
    [4, 64, 259],
    [5, 37, 64],
    [16, 32, 257],
    [19, 70, 320],
    [36, 5, 545],
];

/// Weights of each format and activations in each shape.
fn cases() -> impl Iterator<Item = (Weights, Vec<f32>)> {
    let shapes = all_formats().into_iter().flat_map(|format| SHAPES.map(|shape| (format, shape)));
    shapes.enumerate().map(|(idx, (format, [m, n, k]))| {
        let k = k.next_multiple_of(format.group());
        (Weights::new(format, [n, k], idx % 5, idx as u64), Random(!idx as u64).vec(m * k))
    })
}

#[test]
fn affine_products_have_the_bits_of_the_portable_kernels() {
    let (neon, portable) = (neon(), pool(1, Isa::Portable));
    for (weights, x) in cases().filter(|(weights, _)| matches!(weights.format, Format::Affine { .. })) {
        let (y, wanted) = (matmul(&neon, &x, &weights).unwrap(), matmul(&portable, &x, &weights).unwrap());
        assert_eq!(bits(&y), bits(&wanted), "{:?} {:?}", weights.format, weights.shape);
    }
}

#[test]
fn errors_are_below_the_stated_bound() {
    let neon = neon();
    for (weights, x) in cases() {
        let y = matmul(&neon, &x, &weights).unwrap();
        for (y, (wanted, size)) in y.iter().zip(weights.reference(&x)) {
            let error = (f64::from(*y) - wanted).abs() / size;
            assert!(error <= weights.tolerance(), "{:?} {:?}: {error}", weights.format, weights.shape);
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_among_others() {
    let neon = neon();
    for (weights, x) in cases() {
        let [n, k] = weights.shape;
        let together = matmul(&neon, &x, &weights).unwrap();
        for (x, together) in x.chunks_exact(k).zip(together.chunks_exact(n)) {
            let alone = matmul(&neon, x, &weights).unwrap();
            assert_eq!(bits(&alone), bits(together), "{:?} {:?}", weights.format, weights.shape);
        }
    }
}

#[test]
fn the_greatest_codes_and_activations_do_not_overflow() {
    let neon = neon();
    for (bits, group) in [(4, 32), (4, 64), (4, 128), (8, 32), (8, 64), (8, 128)] {
        let weights = Weights::of_greatest_codes(bits, group, [33, 256]);
        // Values of one magnitude all become the largest fixed-point number.
        for (m, x) in [(1, 1.0), (1, -1.0), (6, 1.0), (6, -1.0)] {
            let x = vec![x; m * 256];
            let y = matmul(&neon, &x, &weights).unwrap();
            for (y, (wanted, size)) in y.iter().zip(weights.reference(&x)) {
                let error = (f64::from(*y) - wanted).abs() / size;
                assert!(error <= weights.tolerance(), "{bits} {group}: {y} for {wanted}");
            }
        }
    }
}
