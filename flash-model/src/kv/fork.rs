//! Forks: copies of a cache that continue on their own.

use flash_io::PageBuf;
use flash_kv::{KvShape, PAGE_TOKENS, PrefixPart};
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};

use super::layer::PagedLayer;
use super::{KvCache, LayerKv, Store};
use crate::ModelError;

impl KvCache {
    /// Makes this cache, which is empty, a copy of `other`, which was planned alike. It is empty again after an error.
    ///
    /// # Errors
    /// [`ModelError::Rotates`] if pages of `other` have been evicted, and errors of its pages.
    pub(crate) fn copy_from(&mut self, other: &Self) -> Result<(), ModelError> {
        let copied = self.try_copy_from(other);
        if copied.is_err() {
            self.truncate(0)?;
        }
        copied
    }

    fn try_copy_from(&mut self, other: &Self) -> Result<(), ModelError> {
        let shape = match (&mut self.store, &other.store) {
            (Store::Plain(tail), Store::Plain(_)) => {
                tail.append(other.held_tokens)?;
                Some(tail.shape())
            }
            (Store::Paged(pages), Store::Paged(_)) => {
                pages.append_tokens(0, other.held());
                None
            }
            _ => unreachable!("caches that were planned alike"),
        };
        for (layer, from) in self.layers.iter_mut().zip(&other.layers) {
            layer.copy_from(from, shape, other.written_tokens)?;
        }
        self.token_ids = other.held().to_vec();
        self.held_tokens = other.held_tokens;
        (self.stored_tokens, self.stored_exactly) = (other.stored_tokens, other.stored_exactly);
        self.written_tokens = other.written_tokens;
        Ok(())
    }
}

impl LayerKv {
    /// Copies the layer of another cache, of which `written_tokens` have been written. `shape` is that of contiguous layers.
    fn copy_from(
        &mut self,
        other: &Self,
        shape: Option<KvShape>,
        written_tokens: usize,
    ) -> Result<(), ModelError> {
        match (self, other, shape) {
            (Self::Shared(to), Self::Shared(from), Some(shape)) => {
                let (to, from) = (&mut *to.lock(), &*from.lock());
                copy_buffer(&mut to.keys, &from.keys, shape, written_tokens);
                if let (Some(to), Some(from)) = (&mut to.values, &from.values) {
                    copy_buffer(to, from, shape, written_tokens);
                }
            }
            (
                Self::Arrays { keys, values },
                Self::Arrays { keys: from_keys, values: from_values },
                Some(_),
            ) => {
                copy_array(keys, from_keys, written_tokens)?;
                if let (Some(values), Some(from)) = (values, from_values) {
                    copy_array(values, from, written_tokens)?;
                }
            }
            (Self::Paged(to), Self::Paged(from), None) => to.lock().copy_from(&from.lock())?,
            (Self::SharedState(to), Self::SharedState(from), _) => to.lock().copy_from(&from.lock()),
            // Arrays of states are not written in place, so both contexts share them.
            (Self::ArrayState(to), Self::ArrayState(from), _) => to.copy_from(from),
            (Self::Nothing, Self::Nothing, _) => {}
            _ => unreachable!("caches that were planned alike"),
        }
        Ok(())
    }
}

/// Copies the first `written_tokens` rows of each head, or all if the buffer is a ring that they have filled. Both are
/// `[kv_heads, capacity, head_dim]`.
fn copy_buffer(to: &mut PageBuf, from: &PageBuf, shape: KvShape, written_tokens: usize) {
    let head_bytes = from.len() / shape.kv_heads;
    let len = written_bytes(shape, written_tokens, head_bytes);
    let heads = to.as_mut_slice().chunks_exact_mut(head_bytes).zip(from.as_slice().chunks_exact(head_bytes));
    for (to, from) in heads {
        to[..len].copy_from_slice(&from[..len]);
    }
}

/// Returns the bytes of a head's rows that have been written: all `head_bytes` if the buffer is a ring that was filled.
pub(super) fn written_bytes(shape: KvShape, written_tokens: usize, head_bytes: usize) -> usize {
    (written_tokens * shape.key_token_bytes() / shape.kv_heads).min(head_bytes)
}

/// Copies the first `written_tokens` rows of each head of an array, `[1, kv_heads, capacity, head_dim]`.
fn copy_array(to: &mut Array, from: &Array, written_tokens: usize) -> Result<(), Exception> {
    let end = written_tokens as i32;
    if end == 0 {
        return Ok(());
    }
    let written = from.try_index((.., .., ..end, ..))?;
    to.try_index_mut((.., .., ..end, ..), &written)?;
    // In place: nothing else references the array.
    to.eval()
}

impl PagedLayer {
    /// Copies the pages of another cache's layer: sealed pages to this cache's memory or file, and the window.
    fn copy_from(&mut self, other: &Self) -> Result<(), ModelError> {
        if other.has_evicted() {
            return Err(ModelError::Rotates { what: "a fork" });
        }
        for page_idx in 0..other.n_sealed() {
            self.adopt(|record| Ok(other.copy(page_idx, PrefixPart::Page, record)?))?;
        }
        for page_idx in other.n_sealed()..other.end().div_ceil(PAGE_TOKENS) {
            self.window_page(page_idx).copy_from_slice(other.window_record(page_idx));
        }
        self.finish_restore(other.end());
        Ok(())
    }
}
