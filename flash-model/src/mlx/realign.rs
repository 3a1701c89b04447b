//! Alignment of tensors within a slot, for Metal.
//!
//! The data of a safetensors file may start at any byte. Metal's kernels load up to [`ALIGN`] bytes at once, from addresses
//! that must be multiples of that.

use std::cmp::Reverse;
use std::ops::Range;

/// Largest load of MLX's Metal kernels.
pub(super) const ALIGN: usize = 16;

/// A tensor that cannot be aligned: the tensors before it fill the slot from its first byte on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Misaligned {
    /// Index of the tensor.
    pub view_idx: usize,
    /// Offset in the slot at which it was read.
    pub offset: usize,
}

/// Moves tensors towards the front of the slot so that each begins at a multiple of [`ALIGN`], and updates their ranges.
///
/// Most files need no move, or one by the same few bytes for all: the tensors of a model are multiples of `ALIGN` long.
/// After one that is not, the gap has to come from in front of it: reads begin at a block of the disk, mostly before the
/// tensor.
pub(super) fn realign(bytes: &mut [u8], ranges: &mut [Range<usize>]) -> Result<(), Misaligned> {
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    // Ranges without bytes may begin where another does.
    order.sort_by_key(|&idx| Reverse((ranges[idx].start, ranges[idx].end)));
    let mut targets = vec![0; ranges.len()];
    let mut next_start = bytes.len();
    for &idx in &order {
        let Range { start, end } = ranges[idx];
        let latest = start.min(next_start.checked_sub(end - start).ok_or(misaligned(idx, start))?);
        targets[idx] = latest / ALIGN * ALIGN;
        next_start = targets[idx];
    }
    // From the front on, so that a tensor is moved before another takes its place.
    for &idx in order.iter().rev() {
        let (range, to) = (ranges[idx].clone(), targets[idx]);
        if to != range.start {
            bytes.copy_within(range.clone(), to);
        }
        ranges[idx] = to..to + range.len();
    }
    Ok(())
}

fn misaligned(view_idx: usize, offset: usize) -> Misaligned {
    Misaligned { view_idx, offset }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn patterned(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i * 7 % 251) as u8).collect()
    }

    /// Lays out tensors of `lengths`, each `gaps` bytes after the one before.
    fn ranges(lengths: &[usize], gaps: &[usize]) -> Vec<Range<usize>> {
        let mut end = 0;
        let range = |(len, gap): (&usize, &usize)| {
            let start = end + gap;
            end = start + len;
            start..end
        };
        lengths.iter().zip(gaps).map(range).collect()
    }

    #[test]
    fn aligned_tensors_stay_where_they_are() {
        let (mut bytes, mut moved) = (patterned(400), vec![160..200, 16..160]);
        realign(&mut bytes, &mut moved).unwrap();
        assert_eq!((bytes, moved), (patterned(400), vec![160..200, 16..160]));
    }

    #[test]
    fn tensors_of_a_multiple_of_16_bytes_move_by_the_same_few_bytes() {
        let mut moved = ranges(&[64, 128, 32], &[27, 0, 0]);
        realign(&mut patterned(400), &mut moved).unwrap();
        assert_eq!(moved, ranges(&[64, 128, 32], &[16, 0, 0]));
    }

    #[test]
    fn tensor_without_room_in_front_is_an_error() {
        let mut moved = ranges(&[6, 64], &[3, 0]);
        let error = realign(&mut patterned(400), &mut moved).unwrap_err();
        assert_eq!(error, Misaligned { view_idx: 0, offset: 3 });
        assert_eq!(moved, ranges(&[6, 64], &[3, 0]), "nothing was moved");
    }

    proptest! {
        #[test]
        fn realigned_tensors_are_whole_aligned_and_do_not_overlap(
            lengths in prop::collection::vec(0..70usize, 1..8),
            gaps in prop::collection::vec(0..40usize, 8),
            front in 0..130usize,
            rotation in 0..8usize,
        ) {
            let mut gaps = gaps;
            gaps[0] += front;
            let mut wanted = ranges(&lengths, &gaps);
            let rotation = rotation % wanted.len();
            wanted.rotate_left(rotation);
            let original = patterned(1024);
            let (mut bytes, mut moved) = (original.clone(), wanted.clone());
            // A tensor takes at most 15 bytes more than it has, so this much always suffices.
            let has_room = front >= 16 * lengths.len();
            match realign(&mut bytes, &mut moved) {
                Ok(()) => {}
                Err(_) => {
                    prop_assert!(!has_room);
                    return Ok(());
                }
            }
            for (to, from) in moved.iter().zip(&wanted) {
                prop_assert_eq!(&bytes[to.clone()], &original[from.clone()]);
                prop_assert!(to.start % ALIGN == 0 && to.start <= from.start);
            }
            let mut sorted: Vec<_> = moved.iter().filter(|range| !range.is_empty()).collect();
            sorted.sort_by_key(|range| range.start);
            prop_assert!(sorted.is_sorted_by(|one, next| one.end <= next.start));
        }
    }
}
