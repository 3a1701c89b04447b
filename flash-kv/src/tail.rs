//! The tail: recent tokens that are not sealed, in memory.

use std::ops::Range;

use flash_io::{Budget, PageBuf};

use crate::{KvError, KvParts, KvShape};

/// The buffers of one layer: keys and values, each row-major `[kv_heads, capacity_tokens, head_dim]`.
#[derive(Debug)]
pub struct LayerBuffers {
    /// Buffer of the keys.
    pub keys: PageBuf,
    /// Buffer of the values, if they are stored separately.
    pub values: Option<PageBuf>,
}

/// The most recent tokens, held in memory, with the buffers of their keys and values.
///
/// All layers advance together: [`append`](Self::append) returns the positions of the next tokens in every layer. The
/// caller takes ownership of the buffers with [`take_layer`](Self::take_layer); the tail only counts tokens.
#[derive(Debug)]
pub struct Tail {
    shape: KvShape,
    capacity_tokens: usize,
    held_tokens: usize,
    layers: Vec<Option<LayerBuffers>>,
}

impl Tail {
    /// Creates a tail for `capacity_tokens` tokens, rounded up to whole pages, in `n_layers` layers.
    ///
    /// # Errors
    /// [`KvError::Memory`] if the budget cannot hold it.
    pub fn new(
        shape: KvShape,
        n_layers: usize,
        capacity_tokens: usize,
        budget: &Budget,
    ) -> Result<Self, KvError> {
        let capacity_tokens = shape.whole_pages(capacity_tokens);
        let bytes = capacity_tokens * shape.key_token_bytes();
        let buffer =
            || PageBuf::new(bytes, budget).map_err(|source| KvError::Memory { capacity_tokens, source });
        let values = || match shape.parts {
            KvParts::KeysAndValues => buffer().map(Some),
            KvParts::KeysOnly => Ok(None),
        };
        let layers = (0..n_layers)
            .map(|_| Ok(Some(LayerBuffers { keys: buffer()?, values: values()? })))
            .collect::<Result<_, _>>()?;
        Ok(Self { shape, capacity_tokens, held_tokens: 0, layers })
    }

    /// Returns the bytes that such a tail is charged to the budget.
    pub fn budget_bytes(shape: KvShape, n_layers: usize, capacity_tokens: usize) -> u64 {
        let bytes = shape.whole_pages(capacity_tokens) * shape.key_token_bytes();
        (shape.parts.count() * n_layers) as u64 * PageBuf::cost_bytes(bytes)
    }

    /// Returns the shape of one token in one layer.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Returns the capacity in tokens, a multiple of the page size.
    pub fn capacity_tokens(&self) -> usize {
        self.capacity_tokens
    }

    /// Returns the number of tokens held.
    pub fn held_tokens(&self) -> usize {
        self.held_tokens
    }

    /// Takes the buffers of a layer; `None` if they were taken before or the layer does not exist.
    pub fn take_layer(&mut self, layer_idx: usize) -> Option<LayerBuffers> {
        self.layers.get_mut(layer_idx)?.take()
    }

    /// Returns the positions that `tokens` more tokens would take.
    ///
    /// # Errors
    /// [`KvError::Full`] if they do not fit.
    pub fn room(&self, tokens: usize) -> Result<Range<usize>, KvError> {
        let end = self.held_tokens.saturating_add(tokens);
        if end > self.capacity_tokens {
            return Err(KvError::Full {
                held_tokens: self.held_tokens,
                wanted_tokens: tokens,
                capacity_tokens: self.capacity_tokens,
            });
        }
        Ok(self.held_tokens..end)
    }

    /// Appends `tokens` tokens and returns their positions.
    ///
    /// # Errors
    /// [`KvError::Full`] if they do not fit; the tail is unchanged then.
    pub fn append(&mut self, tokens: usize) -> Result<Range<usize>, KvError> {
        let positions = self.room(tokens)?;
        self.held_tokens = positions.end;
        Ok(positions)
    }

    /// Drops all but the first `tokens` tokens.
    pub fn truncate(&mut self, tokens: usize) {
        self.held_tokens = self.held_tokens.min(tokens);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{KvDtype, PAGE_TOKENS};

    const SHAPE: KvShape =
        KvShape { kv_heads: 2, head_dim: 16, parts: KvParts::KeysAndValues, dtype: KvDtype::F32 };

    #[test]
    fn capacity_is_whole_pages_and_buffers_hold_it() {
        let budget = Budget::new(1 << 20);
        let mut tail = Tail::new(SHAPE, 1, PAGE_TOKENS + 1, &budget).unwrap();
        assert_eq!(tail.capacity_tokens(), 2 * PAGE_TOKENS);
        let layer = tail.take_layer(0).unwrap();
        assert_eq!(layer.keys.len(), 2 * PAGE_TOKENS * 2 * 16 * 4);
        assert_eq!(layer.values.unwrap().len(), layer.keys.len());
        assert!(tail.take_layer(0).is_none(), "handed out once");
        assert!(tail.take_layer(1).is_none(), "no such layer");
    }

    #[test]
    fn shared_values_have_no_buffer() {
        let shape = KvShape { parts: KvParts::KeysOnly, ..SHAPE };
        let mut tail = Tail::new(shape, 1, PAGE_TOKENS, &Budget::new(1 << 20)).unwrap();
        assert!(tail.take_layer(0).unwrap().values.is_none());
        assert_eq!(2 * shape.token_bytes(), SHAPE.token_bytes());
    }

    #[test]
    fn budget_is_charged_the_announced_bytes() {
        let budget = Budget::new(1 << 24);
        for shape in [SHAPE, KvShape { parts: KvParts::KeysOnly, ..SHAPE }] {
            let tail = Tail::new(shape, 3, 300, &budget).unwrap();
            assert_eq!(budget.used_bytes(), Tail::budget_bytes(shape, 3, 300));
            drop(tail);
            assert_eq!(budget.used_bytes(), 0);
        }
    }

    #[test]
    fn too_small_a_budget_is_a_typed_error_and_keeps_nothing() {
        let budget = Budget::new(100_000);
        let error = Tail::new(SHAPE, 8, 1000, &budget).unwrap_err();
        assert!(matches!(error, KvError::Memory { capacity_tokens: 1024, .. }), "{error:?}");
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn overfull_append_changes_nothing() {
        let mut tail = Tail::new(SHAPE, 1, PAGE_TOKENS, &Budget::new(1 << 20)).unwrap();
        tail.append(100).unwrap();
        let error = tail.append(29).unwrap_err();
        assert!(matches!(
            error,
            KvError::Full { held_tokens: 100, wanted_tokens: 29, capacity_tokens: PAGE_TOKENS }
        ));
        assert_eq!(tail.append(28).unwrap(), 100..128);
        assert!(tail.append(usize::MAX).is_err());
    }

    proptest! {
        #[test]
        fn positions_follow_each_other(steps in prop::collection::vec((0..70usize, any::<bool>()), 0..60)) {
            let mut tail = Tail::new(SHAPE, 0, 512, &Budget::new(0)).unwrap();
            let mut held = 0;
            for (tokens, cut) in steps {
                if cut {
                    tail.truncate(tokens);
                    held = held.min(tokens);
                } else if let Ok(positions) = tail.append(tokens) {
                    prop_assert_eq!(&positions, &(held..held + tokens));
                    held += tokens;
                } else {
                    prop_assert!(held + tokens > 512);
                }
                prop_assert_eq!(tail.held_tokens(), held);
            }
        }
    }
}
