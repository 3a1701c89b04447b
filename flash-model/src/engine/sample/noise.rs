//! Noise of a sample: a function of seed, position and token, without a state.
//!
//! A counter-based generator encrypts the place of a number instead of advancing a state. This is Philox2x64-10 of
//! Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), with the constants of their
//! library Random123. It passes `BigCrush` with 6 rounds; 10 is the authors' default.

/// Rounds of the cipher.
const N_ROUNDS: u32 = 10;
/// Multiplier of a round.
const MULTIPLIER: u64 = 0xd2b7_4407_b1ce_6e93;
/// Added to the key after each round: the golden ratio.
const KEY_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Bits of a uniform number. With half a unit added, it is still exact in an f64, and so is its distance to 1.
const UNIFORM_BITS: u32 = f64::MANTISSA_DIGITS - 1;

/// Uniform noise of the tokens at one position of a sequence.
///
/// The key of the cipher is the seed. Its counter is half the token and the position, and gives two numbers, so no two
/// tokens of any positions of a seed share bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noise {
    seed: u64,
    position: u64,
}

impl Noise {
    pub(super) fn new(seed: u64, position: usize) -> Self {
        Self { seed, position: position as u64 }
    }

    /// Returns uniform numbers in (0, 1) for an even token and the odd one after it: odd multiples of 2^-53.
    #[inline]
    pub(super) fn uniforms(self, pair: u32) -> [f64; 2] {
        philox([u64::from(pair), self.position], self.seed).map(|word| {
            const UNITS: f64 = (1u64 << UNIFORM_BITS) as f64;
            ((word >> (u64::BITS - UNIFORM_BITS)) as f64 + 0.5) / UNITS
        })
    }
}

/// Encrypts a counter with Philox2x64-10.
#[inline]
fn philox([mut left, mut right]: [u64; 2], mut key: u64) -> [u64; 2] {
    for _ in 0..N_ROUNDS {
        let product = u128::from(left) * u128::from(MULTIPLIER);
        left = (product >> u64::BITS) as u64 ^ key ^ right;
        right = product as u64;
        key = key.wrapping_add(KEY_STEP);
    }
    [left, right]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_has_the_known_answers() {
        // From Random123's kat_vectors: counter, key, result.
        let answers = [
            ([0; 2], 0, [0xca00_a045_9843_d731, 0x66c2_4222_c9a8_45b5]),
            ([u64::MAX; 2], u64::MAX, [0x65b0_21d6_0cd8_310f, 0x4d02_f322_2f86_df20]),
            (
                [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344],
                0xa409_3822_299f_31d0,
                [0x0a5e_742c_2997_341c, 0xb0f8_83d3_8000_de5d],
            ),
        ];
        for (counter, key, expected) in answers {
            assert_eq!(philox(counter, key), expected);
        }
    }

    #[test]
    fn uniform_numbers_lie_strictly_between_zero_and_one() {
        let units = (1u64 << UNIFORM_BITS) as f64;
        for pair in 0..100_000 {
            for uniform in Noise::new(7, 3).uniforms(pair) {
                assert!(uniform > 0.0 && uniform < 1.0);
                assert_eq!((uniform * units).fract(), 0.5);
            }
        }
    }

    #[test]
    fn noise_of_neighbouring_tokens_positions_and_seeds_is_uncorrelated() {
        const N_PAIRS: u32 = 100_000;
        let centred = |seed, position, token: u32| {
            Noise::new(seed, position).uniforms(token / 2)[token as usize % 2] - 0.5
        };
        type Place = fn(u32) -> (u64, usize, u32);
        let neighbours: [(Place, Place); 5] = [
            (|n| (0, 9, 2 * n), |n| (0, 9, 2 * n + 1)),
            (|n| (0, 9, 2 * n + 1), |n| (0, 9, 2 * n + 2)),
            (|n| (0, n as usize, 40), |n| (0, n as usize + 1, 40)),
            (|n| (n.into(), 9, 40), |n| (u64::from(n) + 1, 9, 40)),
            (|n| (n.into(), 9, 40), |n| (9, n as usize, 40)),
        ];
        for (at, (one, other)) in neighbours.into_iter().enumerate() {
            let product = |n| {
                let ((seed, position, token), other) = (one(n), other(n));
                centred(seed, position, token) * centred(other.0, other.1, other.2)
            };
            let mean = (0..N_PAIRS).map(product).sum::<f64>() / f64::from(N_PAIRS);
            // The product of two independent centred uniforms has a deviation of 1 / 12.
            let deviations = mean * 12.0 * f64::from(N_PAIRS).sqrt();
            assert!(deviations.abs() < 4.0, "neighbours {at}: {deviations}");
        }
    }
}
