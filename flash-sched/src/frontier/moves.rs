//! Moves of the local search over placements of pinned bundles.

/// Maximum number of pair moves between two classes; above it, bundles are moved one by one only.
const DOUBLE_MOVES_MAX: usize = 1024;

/// The pinned and the other bundles of a class.
#[derive(Debug)]
pub(super) struct ClassSplit {
    pub(super) pinned: Vec<usize>,
    pub(super) free: Vec<usize>,
}

impl ClassSplit {
    fn n_moves(&self) -> usize {
        self.pinned.len() * self.free.len()
    }

    /// Iterates over all moves of a pinned bundle to a place of another one.
    fn moves(&self) -> impl Iterator<Item = (usize, usize)> {
        self.pinned.iter().flat_map(|&from| self.free.iter().map(move |&to| (from, to)))
    }
}

/// Iterates over all single moves, then over pairs of moves where there are few. Large models have too many pairs.
pub(super) fn moves(classes: &[ClassSplit]) -> impl Iterator<Item = Vec<(usize, usize)>> {
    let pairs = classes.iter().enumerate().flat_map(|(idx, first)| {
        let seconds = classes[idx..].iter();
        seconds.map(move |second| (first, second))
    });
    let few = pairs.filter(|(first, second)| first.n_moves() * second.n_moves() <= DOUBLE_MOVES_MAX);
    let doubles = few.flat_map(|(first, second)| {
        first.moves().flat_map(|first| second.moves().map(move |second| vec![first, second]))
    });
    classes.iter().flat_map(ClassSplit::moves).map(|step| vec![step]).chain(doubles)
}
