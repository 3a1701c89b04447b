//! Properties of [`Affine`] for arbitrary values.

use flash_kernels::{Affine, FloatType};
use proptest::prelude::*;

fn affine() -> impl Strategy<Value = Affine> {
    (prop_oneof![2..7_u32, Just(8)], prop_oneof![Just(32), Just(64), Just(128)])
        .prop_map(|(bits, group_size)| Affine::new(bits, group_size).unwrap())
}

proptest! {
    #[test]
    fn unpack_is_the_inverse_of_pack(
        affine in affine(),
        mut codes in prop::collection::vec(any::<u8>(), 256),
    ) {
        for code in &mut codes {
            *code &= affine.code_max();
        }
        let mut packed = vec![0; affine.codes_bytes(codes.len())];
        affine.pack(&codes, &mut packed).unwrap();
        let mut back = vec![0; codes.len()];
        affine.unpack(&packed, &mut back).unwrap();
        prop_assert_eq!(back, codes);
    }

    /// The bound is half a step within the codes, and one step at the end of the range that the stretched scale may cut
    /// off.
    #[test]
    fn a_round_trip_errs_by_half_a_step_or_one_at_the_far_end(
        affine in affine(),
        exponent in -6..6,
        row in prop::collection::vec(-1.0f32..1.0, 256),
    ) {
        let row: Vec<f32> = row.iter().map(|value| value * 10f32.powi(exponent)).collect();
        let n_groups = row.len() / affine.group_size();
        let mut codes = vec![0; affine.codes_bytes(row.len())];
        let (mut scales, mut biases) = (vec![0; 4 * n_groups], vec![0; 4 * n_groups]);
        affine.quantize_row(FloatType::F32, &row, &mut codes, &mut scales, &mut biases).unwrap();
        let mut back = vec![0.0; row.len()];
        affine.dequantize_row(FloatType::F32, &codes, &scales, &biases, &mut back).unwrap();

        let mut plain = vec![0; row.len()];
        affine.unpack(&codes, &mut plain).unwrap();
        for (idx, (value, back)) in row.iter().zip(&back).enumerate() {
            let scale = scales.as_chunks().0[idx / affine.group_size()];
            let step = f32::from_le_bytes(scale).abs();
            let steps_max = if plain[idx] == affine.code_max() { 1.0 } else { 0.5 };
            let rounding = 4.0 * f32::EPSILON * value.abs().max(step * f32::from(affine.code_max()));
            prop_assert!(
                (value - back).abs() <= steps_max * step + rounding,
                "{value} came back as {back}, step {step}, code {}", plain[idx]
            );
        }
    }

    #[test]
    fn quantising_never_panics_on_any_bits(affine in affine(), bits in prop::collection::vec(any::<u32>(), 128)) {
        let row: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        let mut codes = vec![0; affine.codes_bytes(row.len())];
        let floats_bytes = 4 * row.len() / affine.group_size();
        let (mut scales, mut biases) = (vec![0; floats_bytes], vec![0; floats_bytes]);
        let done = affine.quantize_row(FloatType::F32, &row, &mut codes, &mut scales, &mut biases);
        prop_assert_eq!(done.is_ok(), row.iter().all(|value| value.abs() <= f32::MAX / 2.0));
    }
}
