//! Rotary embedding at very large positions.

use flash_kernels::Rope;

/// Cosine and sine of the rotation of a pair with this inverse frequency.
fn rotation(position: usize, scale: f32, inverse_frequency: f32) -> [f32; 2] {
    let inverse_frequencies = vec![inverse_frequency];
    let rope = Rope { inverse_frequencies, scale, magnitude: 1.0, traditional: true };
    let mut out = [0.0; 2];
    rope.rotate(position, 2, &[1.0, 0.0], &mut out);
    out
}

#[test]
fn sine_and_cosine_are_those_of_the_angle_in_f32_however_large_it_is() {
    for base in [1e4_f64, 5e5, 1e6, 1e7] {
        for pair in 0..64 {
            let inverse_frequency = base.powf(f64::from(pair) / -64.0) as f32;
            for position in [0, 1, 1000, 131_071, 999_999, 1_000_001, 1 << 23, (1 << 24) - 1, 1 << 30] {
                for scale in [1.0, 0.25] {
                    // The product in f32, as in MLX: the rounding of angles, not of sine and cosine, limits precision.
                    let angle = f64::from(position as f32 * scale * inverse_frequency);
                    let [cos, sin] = rotation(position, scale, inverse_frequency).map(f64::from);
                    let error = (cos - angle.cos()).abs().max((sin - angle.sin()).abs());
                    assert!(error < 1.2e-7, "position {position}, pair {pair} of {base}: {error:e}");
                }
            }
        }
    }
}

#[test]
fn positions_are_told_apart_up_to_two_to_the_24th() {
    for position in [1_000_000, (1 << 24) - 2] {
        assert_ne!(rotation(position, 1.0, 1.0), rotation(position + 1, 1.0, 1.0));
    }
}
