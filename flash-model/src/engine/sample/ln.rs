//! A portable natural logarithm with the same bits on every machine, for the reason that `exp.rs` gives.

/// ln 2 in two parts; the first has few bits, so that its multiples are exact.
const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;

/// Coefficients of the series of the remainder in s², of fdlibm's `__ieee754_log`.
const COEFFICIENTS: [f64; 7] = [
    6.666_666_666_666_735e-1,
    3.999_999_999_940_942e-1,
    2.857_142_874_366_239e-1,
    2.222_219_843_214_978_4e-1,
    1.818_357_216_161_805e-1,
    1.531_383_769_920_937_3e-1,
    1.479_819_860_511_658_6e-1,
];

/// Bits of the mantissa without the leading one.
const FRACTION_BITS: u32 = f64::MANTISSA_DIGITS - 1;

/// Computes `ln x` for a positive normal `x`, with a relative error below 1e-15, also next to 1.
pub(super) fn ln(x: f64) -> f64 {
    // x = 2^n (1 + f), where 1 + f is between √½ and √2.
    let shift = 1.0f64.to_bits() - std::f64::consts::FRAC_1_SQRT_2.to_bits();
    let shifted = x.to_bits() + shift;
    let n = (shifted >> FRACTION_BITS) as f64 - f64::from(f64::MAX_EXP - 1);
    let fraction = shifted & ((1 << FRACTION_BITS) - 1);
    let f = f64::from_bits(fraction + std::f64::consts::FRAC_1_SQRT_2.to_bits()) - 1.0;
    // ln(1 + f) = 2 artanh s = f - f²/2 + s (f²/2 + R), with s = f / (2 + f).
    let s = f / (2.0 + f);
    let z = s * s;
    let r = COEFFICIENTS.iter().rev().fold(0.0, |sum, coefficient| (sum + coefficient) * z);
    let half_square = 0.5 * f * f;
    n * LN_2_HIGH - ((half_square - (s * (half_square + r) + n * LN_2_LOW)) - f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ln_is_within_its_stated_error() {
        let mut worst = 0.0f64;
        let mut check = |x: f64| worst = worst.max((ln(x) / x.ln() - 1.0).abs());
        for step in 1..200_000u32 {
            check(f64::from(step) / 200_000.0);
            check(f64::from(step) / 100.0 + 1.003);
        }
        for exponent in 1..=53 {
            check(1.0 - 2f64.powi(-exponent));
            check(2f64.powi(-exponent));
        }
        assert!(worst < 1e-15, "{worst:e}");
        assert_eq!(ln(1.0), 0.0);
    }

    #[test]
    fn ln_has_the_same_bits_everywhere() {
        let bits = [1e-300, 2f64.powi(-53), 0.1, 0.5, 0.75, 1.0 - 2f64.powi(-53)].map(|x| ln(x).to_bits());
        let expected = [
            13_872_659_378_474_614_709,
            13_853_739_099_206_662_138,
            13_835_739_416_338_191_637,
            13_827_790_571_168_217_583,
            13_822_226_076_269_861_778,
            13_591_863_675_404_156_928,
        ];
        assert_eq!(bits, expected);
    }
}
