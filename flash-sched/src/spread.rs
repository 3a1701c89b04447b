//! Evenly spread subsets of indices.

/// Iterates over the indices below `n` in an order whose every prefix is evenly spread: the van der Corput sequence
/// (bit-reversed counting), scaled to `n`.
pub(crate) fn spread(n: usize) -> impl Iterator<Item = usize> {
    let bits = n.next_power_of_two().trailing_zeros();
    let mut seen = vec![false; n];
    (0..1usize << bits)
        .map(move |k| if bits == 0 { 0 } else { k.reverse_bits() >> (usize::BITS - bits) })
        .map(move |k| (k * n) >> bits)
        .filter(move |&index| index < n && !std::mem::replace(&mut seen[index], true))
}

/// Iterates over `count` indices below `n` with gaps that differ by at most one. `phase`, below 1, shifts them by that
/// fraction of a gap. Unlike with [`spread`], smaller sets are not subsets of larger ones.
pub(crate) fn even(n: usize, count: usize, phase: f64) -> impl Iterator<Item = usize> {
    (0..count).map(move |k| ((k as f64 + phase) * n as f64 / count as f64) as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn spread_yields_every_index_once(n in 0..300usize) {
            let mut order: Vec<_> = spread(n).collect();
            order.sort_unstable();
            prop_assert_eq!(order, (0..n).collect::<Vec<_>>());
        }

        #[test]
        fn every_prefix_of_the_spread_is_even(n in 2..200usize, part in 0.0..1.0f64) {
            let count = 1 + (part * (n - 1) as f64) as usize;
            let mut prefix: Vec<_> = spread(n).take(count).collect();
            prefix.sort_unstable();
            let last_gap = n + prefix[0] - prefix[count - 1];
            let longest = prefix.windows(2).map(|pair| pair[1] - pair[0]).chain([last_gap]).max().unwrap();
            prop_assert!(longest <= 2 * n.div_ceil(count) + 1, "gap {longest} of {n} with {count}");
        }

        #[test]
        fn gaps_of_even_differ_by_one_at_most(n in 1..200usize, part in 0.0..=1.0f64, phase in 0.0..0.99f64) {
            let count = 1 + (part * (n - 1) as f64) as usize;
            let indices: Vec<_> = even(n, count, phase).collect();
            prop_assert!(indices[count - 1] < n);
            let gaps: Vec<_> = indices.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let longest = gaps.iter().max().unwrap_or(&0);
            prop_assert!(gaps.iter().all(|&gap| gap > 0 && longest - gap <= 1), "{gaps:?}");
        }
    }
}
