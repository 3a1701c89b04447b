//! Seeded random numbers.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Uniform random numbers in [0, 1) from the `ChaCha8` cipher.
///
/// The key is the seed, little-endian, padded with zeros; the stream and the counter begin at 0. Each number is the
/// upper 53 bits of the next 64. The cipher is a fixed function, so the numbers of a seed never change.
#[derive(Clone, Debug)]
pub(super) struct Draws(ChaCha8Rng);

impl Draws {
    pub(super) fn new(seed: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        Self(ChaCha8Rng::from_seed(key))
    }

    pub(super) fn next_unit(&mut self) -> f64 {
        const UNITS: f64 = (1u64 << f64::MANTISSA_DIGITS) as f64;
        (self.0.next_u64() >> (u64::BITS - f64::MANTISSA_DIGITS)) as f64 / UNITS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_seed_never_change() {
        // The ChaCha8 keystream of the zero key begins 3e00ef2f895f40d6 (the eSTREAM test vectors).
        let mut draws = Draws::new(0);
        let first = u64::from_le_bytes([0x3e, 0x00, 0xef, 0x2f, 0x89, 0x5f, 0x40, 0xd6]);
        assert_eq!(draws.next_unit(), (first >> 11) as f64 / 2f64.powi(53));
        let mut draws = Draws::new(0x0123_4567_89ab_cdef);
        let units: Vec<u64> = (0..3).map(|_| draws.next_unit().to_bits()).collect();
        assert_eq!(units, [4_590_509_825_155_226_928, 4_602_740_244_668_309_357, 4_599_681_814_776_652_876]);
    }
}
