//! Tests of kernels whose instructions the processor may lack: NEON and AVX-VNNI, emulated.

use std::num::NonZeroUsize;

#[cfg(target_arch = "x86_64")]
use super::avxvnni;
use super::neon;
use crate::common::{Format, Random, Weights, all_formats, bits, matmul, pool};
use crate::isa::Isa;
use crate::pool::Pool;
use crate::strips::Strips;
use crate::tuning::KernelTuning;

/// Pools with the kernels of these instruction sets.
fn pools() -> Vec<Pool> {
    let neon = [
        (Isa::Neon, &neon::KERNELS),
        (Isa::NeonDotProd, &neon::DOTPROD_KERNELS),
        (Isa::NeonI8mm, &neon::I8MM_KERNELS),
    ];
    #[cfg(target_arch = "x86_64")]
    let vnni = Isa::available().contains(&Isa::Avx2).then_some((Isa::AvxVnni, &avxvnni::KERNELS));
    #[cfg(not(target_arch = "x86_64"))]
    let vnni = None;
    neon.into_iter()
        .chain(vnni)
        .map(|(isa, kernels)| {
            let tuning =
                KernelTuning { n_threads: NonZeroUsize::MIN, ..KernelTuning::of_kernels(isa, kernels) };
            Pool::with_kernels(tuning, kernels.clone())
        })
        .collect()
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
    let portable = pool(1, Isa::Portable);
    for (weights, x) in cases().filter(|(weights, _)| matches!(weights.format, Format::Affine { .. })) {
        let wanted = matmul(&portable, &x, &weights).unwrap();
        for pool in pools() {
            let y = matmul(&pool, &x, &weights).unwrap();
            assert_eq!(bits(&y), bits(&wanted), "{} {:?} {:?}", pool.isa(), weights.format, weights.shape);
        }
    }
}

#[test]
fn products_of_strips_have_the_bits_of_rows() {
    let is_in_strips = |format: &Format| matches!(format, Format::Affine { bits: 4 | 8, .. });
    for format in all_formats().into_iter().filter(is_in_strips) {
        let strips = Strips::SIXTEEN_ROWS;
        for m in [1, 2, 4, 7, 20] {
            let k = 5 * format.group();
            let weights = Weights::new(format, [48, k], m % 5, m as u64);
            let x = Random(m as u64).vec(m * k);
            let rearranged = weights.rearranged(strips);
            let matrix = rearranged.matrix().in_strips(strips).unwrap();
            for pool in pools() {
                let (rows, mut y) = (matmul(&pool, &x, &weights).unwrap(), vec![0.0; m * 48]);
                crate::matmul(&pool, &x, &matrix, None, &mut y).unwrap();
                assert_eq!(bits(&y), bits(&rows), "{} {format:?} {m}", pool.isa());
            }
        }
    }
}

#[test]
fn errors_are_below_the_stated_bound() {
    for (weights, x) in cases() {
        for pool in pools() {
            let y = matmul(&pool, &x, &weights).unwrap();
            for (y, (wanted, size)) in y.iter().zip(weights.reference(&x)) {
                let error = (f64::from(*y) - wanted).abs() / size;
                let case = (pool.isa(), weights.format, weights.shape);
                assert!(error <= weights.tolerance(), "{case:?}: {error}");
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_among_others() {
    for (weights, x) in cases() {
        let [n, k] = weights.shape;
        for pool in pools() {
            let together = matmul(&pool, &x, &weights).unwrap();
            for (x, together) in x.chunks_exact(k).zip(together.chunks_exact(n)) {
                let alone = matmul(&pool, x, &weights).unwrap();
                let case = (pool.isa(), weights.format, weights.shape);
                assert_eq!(bits(&alone), bits(together), "{case:?}");
            }
        }
    }
}

#[test]
fn the_greatest_codes_and_activations_do_not_overflow() {
    for (bits, group) in [(4, 32), (4, 64), (4, 128), (8, 32), (8, 64), (8, 128)] {
        let weights = Weights::of_greatest_codes(bits, group, [33, 256]);
        // Values of one magnitude all become the largest fixed-point number.
        for (m, x) in [(1, 1.0), (1, -1.0), (6, 1.0), (6, -1.0), (20, -1.0)] {
            let x = vec![x; m * 256];
            for pool in pools() {
                let y = matmul(&pool, &x, &weights).unwrap();
                for (y, (wanted, size)) in y.iter().zip(weights.reference(&x)) {
                    let error = (f64::from(*y) - wanted).abs() / size;
                    assert!(error <= weights.tolerance(), "{} {bits} {group}: {y} for {wanted}", pool.isa());
                }
            }
        }
    }
}
