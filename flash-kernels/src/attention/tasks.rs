//! Splits the rows of an attention call into tasks. The split does not change the bits of a row.

use std::ops::Range;

use super::Heads;
use super::partials::Partials;

/// Query rows computed together.
const ROWS_BLOCK: usize = 64;

/// Minimum number of spans expected per call: pages on disk come four at a time.
const SPANS: usize = 4;

/// Minimum query heads per task when the query heads of a KV head are split: each task decodes the keys and values
/// again, which takes about as long as multiplying them with this many rows.
const HEADS_MIN: usize = 8;

/// Grid of tasks, `[kv_heads, token blocks, head blocks]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tasks {
    /// New tokens of all tasks together.
    pub n: usize,
    kv_heads: usize,
    /// Query heads per KV head.
    group: usize,
    block_tokens: usize,
    block_heads: usize,
    /// Length of the [`Partials`] of a task, in `f32`.
    pub partial_len: usize,
}

/// The rows of a task, `[tokens, heads]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    pub kv_head: usize,
    /// Range of new tokens.
    pub tokens: Range<usize>,
    /// Range within the query heads of the KV head.
    pub heads: Range<usize>,
}

impl Tasks {
    /// Splits `n` tokens for `n_threads`. If tokens and KV heads give too few tasks, the query heads of a KV head are
    /// split too.
    pub(super) fn new(heads: Heads, n: usize, n_threads: usize) -> Self {
        let (kv_heads, group) = (heads.kv_heads, heads.group());
        let block_tokens = (ROWS_BLOCK / group).max(1);
        let n_tasks = (kv_heads * n.div_ceil(block_tokens)).max(1);
        let wanted = n_threads.div_ceil(SPANS).div_ceil(n_tasks);
        let block_heads = group.div_ceil(wanted).max(HEADS_MIN).min(group);
        let partial_len = block_tokens.min(n) * block_heads * Partials::row_len(heads.value_dim);
        Self { n, kv_heads, group, block_tokens, block_heads, partial_len }
    }

    fn head_blocks(self) -> usize {
        self.group.div_ceil(self.block_heads)
    }

    fn token_blocks(self) -> usize {
        self.n.div_ceil(self.block_tokens)
    }

    pub(super) fn len(self) -> usize {
        self.kv_heads * self.token_blocks() * self.head_blocks()
    }

    pub(super) fn get(self, task_idx: usize) -> Task {
        let block = |idx: usize, len: usize, end: usize| idx * len..end.min((idx + 1) * len);
        let (rest, head_block) = (task_idx / self.head_blocks(), task_idx % self.head_blocks());
        let (kv_head, token_block) = (rest / self.token_blocks(), rest % self.token_blocks());
        let tokens = block(token_block, self.block_tokens, self.n);
        Task { kv_head, tokens, heads: block(head_block, self.block_heads, self.group) }
    }

    /// Returns the task of a token and query head, and its row in that task.
    pub(super) fn place(self, token: usize, query_head: usize) -> (usize, usize) {
        let (kv_head, head) = (query_head / self.group, query_head % self.group);
        let rest = kv_head * self.token_blocks() + token / self.block_tokens;
        let task_idx = rest * self.head_blocks() + head / self.block_heads;
        let n_heads = self.get(task_idx).heads.len();
        (task_idx, token % self.block_tokens * n_heads + head % self.block_heads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_in_one_task_at_its_place() {
        for (query_heads, kv_heads) in [(1, 1), (9, 3), (128, 1), (20, 1), (32, 8)] {
            for (n, n_threads) in [(1, 1), (1, 64), (5, 64), (70, 2), (70, 300)] {
                let tasks = Tasks::new(Heads::new(query_heads, kv_heads, 16), n, n_threads);
                let mut rows = Vec::new();
                for task_idx in 0..tasks.len() {
                    let Task { kv_head, tokens, heads } = tasks.get(task_idx);
                    let first = kv_head * query_heads / kv_heads;
                    let of_task =
                        tokens.flat_map(|token| heads.clone().map(move |head| (token, first + head)));
                    for (at, (token, head)) in of_task.enumerate() {
                        assert_eq!(tasks.place(token, head), (task_idx, at));
                        rows.push((token, head));
                    }
                }
                rows.sort_unstable();
                assert!(
                    rows.into_iter()
                        .eq((0..n).flat_map(|token| (0..query_heads).map(move |head| (token, head))))
                );
            }
        }
    }

    #[test]
    fn one_token_and_four_pages_have_a_part_for_each_of_64_threads_and_few_threads_share_no_heads() {
        let latent = Heads { value_dim: 512, ..Heads::new(128, 1, 576) };
        assert!(SPANS * Tasks::new(latent, 1, 64).len() >= 64);
        assert_eq!(Tasks::new(latent, 1, 4).len(), 1);
        // Query heads are not split into fewer than it costs to decode their shared keys.
        assert_eq!(Tasks::new(Heads::new(32, 8, 128), 1, 64).len(), 8);
        assert_eq!(Tasks::new(Heads::new(64, 4, 128), 1, 64).len(), 8);
    }
}
