//! Layout of a bundle's tensors in a slot.

use crate::catalog::ShardIdx;
use crate::span::Span;
use crate::storage::DIRECT_ALIGN;

/// Contiguous bytes of a shard that are read into a slot: one or more tensors of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extent {
    /// The shard it lies in.
    pub shard: ShardIdx,
    /// `wanted`, widened to multiples of [`DIRECT_ALIGN`]; may end past the end of the file.
    pub file: Span,
    /// From the first byte of its first tensor to the last byte of its last one; within `file`.
    pub wanted: Span,
    /// Slot offset of the byte at `file.start`; a multiple of [`DIRECT_ALIGN`].
    pub slot_offset: usize,
}

impl Extent {
    /// Returns the slot offset of the byte at `offset` of the shard.
    pub(crate) fn slot_offset_of(&self, offset: u64) -> usize {
        self.slot_offset + (offset - self.file.start) as usize
    }

    fn slot_end(&self) -> usize {
        self.slot_offset_of(self.file.end)
    }
}

/// Slot offsets of a bundle's tensors, and the file ranges to read for them.
///
/// The layout is the same for every [`IoMode`](crate::IoMode) and machine. Tensors share an extent only if no whole
/// block of [`DIRECT_ALIGN`] bytes lies between them, so a direct read transfers only blocks that hold tensor bytes. A
/// tensor keeps its offset within its block: its alignment in the slot is that in the file, which may be 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleLayout {
    extents: Vec<Extent>,
    tensor_offsets: Vec<usize>,
    slot_bytes: usize,
    wanted_bytes: u64,
}

impl BundleLayout {
    /// Lays out tensors, each given as its shard and its byte range in the shard. A span that occurs twice (tied
    /// tensors) is read once.
    ///
    /// # Panics
    /// If the bundle is larger than the address space.
    pub fn new(tensors: &[(ShardIdx, Span)]) -> Self {
        let mut order: Vec<usize> = (0..tensors.len()).filter(|&i| !tensors[i].1.is_empty()).collect();
        order.sort_by_key(|&i| tensors[i]);

        let mut extents: Vec<Extent> = Vec::new();
        let mut tensor_offsets = vec![0; tensors.len()];
        for i in order {
            let (shard, wanted) = tensors[i];
            let file = wanted.align_outward(DIRECT_ALIGN as u64);
            match extents.last_mut() {
                Some(last) if last.shard == shard && last.file.touches(&file) => {
                    (last.file, last.wanted) = (last.file.hull(&file), last.wanted.hull(&wanted));
                }
                last => {
                    let slot_offset = last.map_or(0, |last| last.slot_end());
                    extents.push(Extent { shard, file, wanted, slot_offset });
                }
            }
            tensor_offsets[i] = extents[extents.len() - 1].slot_offset_of(wanted.start);
        }
        let slot_bytes = extents.last().map_or(0, Extent::slot_end);
        let wanted_bytes = extents.iter().map(|extent| extent.wanted.len_bytes()).sum();
        assert!(isize::try_from(slot_bytes).is_ok(), "a bundle fits the address space");
        Self { extents, tensor_offsets, slot_bytes, wanted_bytes }
    }

    /// Returns the ranges to read, sorted by shard and offset; no two share a byte of the file or of the slot.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Returns the slot offset of tensor `i`, in the order given to [`new`](Self::new), in bytes; 0 for an empty
    /// tensor.
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn tensor_offset(&self, i: usize) -> usize {
        self.tensor_offsets[i]
    }

    /// Returns the bytes that the bundle occupies in a slot, which are also the bytes of a direct read.
    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Returns the bytes of a buffered read: tensors, and gaps between them shorter than a block.
    pub fn wanted_bytes(&self) -> u64 {
        self.wanted_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCK: u64 = DIRECT_ALIGN as u64;

    fn one_shard(spans: &[(u64, u64)]) -> BundleLayout {
        let tensors: Vec<_> =
            spans.iter().map(|&(start, end)| (ShardIdx(0), Span::new(start, end))).collect();
        BundleLayout::new(&tensors)
    }

    #[test]
    fn tensors_end_to_end_become_one_extent() {
        let layout = one_shard(&[(100, 200), (200, 9000)]);
        let wanted = Span::new(100, 9000);
        let extent = Extent { shard: ShardIdx(0), file: Span::new(0, 3 * BLOCK), wanted, slot_offset: 0 };
        assert_eq!(layout.extents(), [extent]);
        assert_eq!((layout.tensor_offset(0), layout.tensor_offset(1)), (100, 200));
        assert_eq!((layout.wanted_bytes(), layout.slot_bytes()), (8900, 3 * DIRECT_ALIGN));
    }

    #[test]
    fn tensors_a_block_apart_stay_apart() {
        let layout = one_shard(&[(5 * BLOCK + 7, 6 * BLOCK), (0, 10)]);
        assert_eq!(layout.extents().len(), 2);
        assert_eq!(layout.extents()[1].file, Span::new(5 * BLOCK, 6 * BLOCK));
        assert_eq!((layout.tensor_offset(0), layout.tensor_offset(1)), (DIRECT_ALIGN + 7, 0));
        assert_eq!(layout.wanted_bytes(), BLOCK - 7 + 10);
    }

    #[test]
    fn shards_are_never_joined() {
        let span = Span::new(0, BLOCK);
        let layout = BundleLayout::new(&[(ShardIdx(1), span), (ShardIdx(0), span)]);
        assert_eq!(layout.extents().iter().map(|extent| extent.shard.0).collect::<Vec<_>>(), [0, 1]);
        assert_eq!((layout.tensor_offset(0), layout.tensor_offset(1)), (DIRECT_ALIGN, 0));
    }

    #[test]
    fn tied_tensors_are_read_once() {
        let layout = one_shard(&[(10, 20), (10, 20), (5, 5)]);
        assert_eq!(layout.wanted_bytes(), 10);
        assert_eq!([0, 1, 2].map(|i| layout.tensor_offset(i)), [10, 10, 0]);
        assert_eq!(BundleLayout::new(&[]).slot_bytes(), 0);
    }

    fn bundles() -> impl Strategy<Value = Vec<(ShardIdx, Span)>> {
        let tensor = (0usize..3, 0u64..200_000, 0u64..30_000)
            .prop_map(|(shard, start, len)| (ShardIdx(shard), Span::new(start, start + len)));
        prop::collection::vec(tensor, 0..20)
    }

    proptest! {
        #[test]
        fn every_byte_of_a_tensor_is_read_exactly_once_to_its_place(tensors in bundles()) {
            let layout = BundleLayout::new(&tensors);
            for (i, (shard, span)) in tensors.iter().enumerate().filter(|(_, (_, span))| !span.is_empty()) {
                let holding: Vec<_> = layout.extents().iter()
                    .filter(|extent| extent.shard == *shard && !extent.wanted.intersection(span).is_empty())
                    .collect();
                prop_assert_eq!(holding.len(), 1);
                prop_assert!(holding[0].wanted.contains(span) && holding[0].file.contains(&holding[0].wanted));
                prop_assert_eq!(holding[0].slot_offset_of(span.start), layout.tensor_offset(i));
                prop_assert!(layout.tensor_offset(i) + span.len_bytes() as usize <= layout.slot_bytes());
            }
        }

        #[test]
        fn extents_are_aligned_and_tile_the_slot(tensors in bundles()) {
            let layout = BundleLayout::new(&tensors);
            let mut at = 0;
            for extent in layout.extents() {
                prop_assert_eq!(extent.slot_offset, at);
                prop_assert!(extent.file.start.is_multiple_of(BLOCK) && extent.file.end.is_multiple_of(BLOCK));
                at += extent.file.len_bytes() as usize;
            }
            prop_assert_eq!(at, layout.slot_bytes());
        }

        #[test]
        fn no_block_without_a_wanted_byte_is_read(tensors in bundles()) {
            let layout = BundleLayout::new(&tensors);
            for extent in layout.extents() {
                for block in extent.file.chunks(BLOCK) {
                    let is_in = |(shard, span): &(ShardIdx, Span)| {
                        *shard == extent.shard && !span.intersection(&block).is_empty()
                    };
                    prop_assert!(tensors.iter().any(is_in));
                }
            }
        }
    }
}
