//! Conversion of pages, compiled for the vector instructions that the processor has.
//!
//! A generic x86-64 build may assume only 4-lane vectors; nearly every machine has 8-lane ones. Both apply the same
//! operations to each element, and neither fuses any (no FMA), so the results are bit-identical.

use crate::layout::PageLayout;

/// Runs [`rewrite`](super::rewrite) with the widest vectors available.
pub(super) fn rewrite(from: &PageLayout, source: &[u8], to: &PageLayout, record: &mut [u8]) -> Option<f32> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "the processor has the instructions")]
        // SAFETY: `with_avx2` requires nothing but AVX2, which was detected.
        return unsafe { with_avx2(from, source, to, record) };
    }
    super::rewrite(from, source, to, record)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2(from: &PageLayout, source: &[u8], to: &PageLayout, record: &mut [u8]) -> Option<f32> {
    super::rewrite(from, source, to, record)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::PageFormat;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn wide_vectors_write_the_bits_of_narrow_ones(
            seed: u64,
            (from, to) in (0..2_usize, 0..4_usize),
            head_dim in prop_oneof![Just(64_usize), Just(128), 1..130_usize],
        ) {
            let [from, to] = [from, to].map(|nth| PageLayout::new(1, head_dim, PageFormat::ALL[nth]));
            // Arbitrary bits, among them infinities and NaN.
            let mut state = seed | 1;
            let bits = std::iter::repeat_with(|| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            });
            let source: Vec<u8> = bits.take(from.record_bytes()).collect();
            let [mut wide, mut narrow] = [(); 2].map(|()| vec![0; to.record_bytes()]);
            let found = [
                rewrite(&from, &source, &to, &mut wide),
                super::super::rewrite(&from, &source, &to, &mut narrow),
            ];
            prop_assert!(wide == narrow);
            prop_assert_eq!(found[0].map(f32::to_bits), found[1].map(f32::to_bits));
        }
    }
}
