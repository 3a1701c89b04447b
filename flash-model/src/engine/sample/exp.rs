//! A portable `e^x` with the same bits on every machine.
//!
//! The standard library calls the platform's, and platforms differ in the last bits: enough to change a sample at the
//! edge between two tokens. This one consists of additions and multiplications in a fixed order, which the compiler can
//! also vectorize.

/// Below this the result is 0, as `e^x` would be subnormal.
const MIN_X: f32 = -87.0;

/// Rounds to an integer when added and subtracted again: 1.5 × 2^23.
const ROUNDER: f32 = 12_582_912.0;

/// ln 2 in two parts; the first has few bits, so that its multiples are exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// Computes `e^x` for `x` ≤ 0, with a relative error below 2e-7.
pub(super) fn exp(x: f32) -> f32 {
    if x < MIN_X {
        return 0.0;
    }
    // x = n ln 2 + r, |r| ≤ ln 2 / 2, and e^r by the polynomial of Cephes' expf.
    let rounded = x * std::f32::consts::LOG2_E + ROUNDER;
    let n = rounded - ROUNDER;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let e_r = p * r * r + r + 1.0;
    // The low bits of `rounded` are n; shifted to the exponent they make 2^n.
    let power = (rounded.to_bits() << 23).wrapping_add(1.0f32.to_bits());
    e_r * f32::from_bits(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_its_stated_error() {
        let mut worst = 0.0f64;
        for step in 0..=870_000u32 {
            let x = -(step as f32) * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) / exact - 1.0).abs());
        }
        assert!(worst < 2e-7, "{worst:e}");
    }

    #[test]
    fn exp_is_exact_at_zero_and_zero_below_its_range() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(-87.1), 0.0);
        assert_eq!(exp(f32::MIN), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn exp_has_the_same_bits_everywhere() {
        let bits = [-0.1f32, -1.0, -2.75, -10.0, -86.9].map(|x| exp(x).to_bits());
        assert_eq!(bits, [1_063_756_653, 1_052_531_378, 1_031_990_428, 943_614_926, 12_980_105]);
    }
}
