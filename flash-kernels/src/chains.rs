//! Accumulation order of the groups of a row of affine weights.
//!
//! Every [`CHAINS`]-th group belongs to the same chain. The groups of a chain are added in order, and then the chains.
//! A kernel can thus read the groups of one row as they are stored, with one chain per vector lane, or process one
//! chain after the other for many rows, with the same bits.

/// Number of chains: the lanes of the widest vectors.
pub(crate) const CHAINS: usize = 16;

/// A group and its position in its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) group_idx: usize,
    pub(crate) is_first: bool,
    pub(crate) is_last: bool,
}

/// Returns the groups of a row of `n_groups`, chain by chain.
pub(crate) fn links(n_groups: usize) -> Vec<Link> {
    let chain = |first: usize| {
        (first..n_groups).step_by(CHAINS).map(move |group_idx| Link {
            group_idx,
            is_first: group_idx == first,
            is_last: group_idx + CHAINS >= n_groups,
        })
    };
    (0..CHAINS).flat_map(chain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_all_groups_chain_after_chain() {
        for n_groups in 0..70 {
            let links = links(n_groups);
            let mut groups: Vec<_> = links.iter().map(|link| link.group_idx).collect();
            assert!(groups.is_sorted_by_key(|group_idx| (group_idx % CHAINS, *group_idx)));
            groups.sort_unstable();
            assert!(groups.into_iter().eq(0..n_groups));
            for (idx, link) in links.iter().enumerate() {
                let chain = |link: &Link| link.group_idx % CHAINS;
                let other = |neighbour: Option<&Link>| neighbour.is_none_or(|it| chain(it) != chain(link));
                assert_eq!(link.is_first, other(idx.checked_sub(1).map(|idx| &links[idx])));
                assert_eq!(link.is_last, other(links.get(idx + 1)));
            }
        }
    }
}
