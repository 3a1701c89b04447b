//! Attention over a contiguous cache.

use flash_kernels::{Attention, Heads, KvRows, SPAN_TOKENS, Span};
use flash_kv::LayerBuffers;

use super::{NewTokens, window_start};

/// Appends the new tokens to `kv`, and attends to all tokens so far.
pub(super) fn attend(new: NewTokens<'_>, kv: &mut LayerBuffers, out: &mut [f32]) {
    let NewTokens { pool, heads, params, position, queries, keys: new_keys, values: new_values } = new;
    let Heads { kv_heads, head_dim, .. } = heads;
    let LayerBuffers { keys, values } = kv;
    let keys: &mut [f32] = bytemuck::cast_slice_mut(keys.as_mut_slice());
    let mut values: Option<&mut [f32]> =
        values.as_mut().map(|values| bytemuck::cast_slice_mut(values.as_mut_slice()));
    let (head_len, end) = (keys.len() / kv_heads, position + new_keys.len() / (kv_heads * head_dim));
    let capacity_tokens = head_len / head_dim;
    let append = |all: &mut [f32], new: &[f32]| {
        for (position, token) in (position..end).zip(new.chunks_exact(kv_heads * head_dim)) {
            for (head, vector) in token.chunks_exact(head_dim).enumerate() {
                let start = head * head_len + position % capacity_tokens * head_dim;
                all[start..start + head_dim].copy_from_slice(vector);
            }
        }
    };
    append(keys, new_keys);
    if let (Some(values), Some(new)) = (&mut values, new_values) {
        append(values, new);
    }
    // Spans start at multiples of their length, and the memory is a whole number of spans, so each is contiguous.
    let span = |start: usize| {
        let offset = start % capacity_tokens * head_dim;
        Span {
            start,
            n_tokens: SPAN_TOKENS.min(end - start),
            head_tokens: capacity_tokens,
            keys: KvRows::F32(&keys[offset..]),
            values: values.as_deref().map(|values| KvRows::F32(&values[offset..])),
        }
    };
    let first = window_start(params.window, position) / SPAN_TOKENS * SPAN_TOKENS;
    let spans: Vec<Span<'_>> = (first..end).step_by(SPAN_TOKENS).map(span).collect();
    let mut attention = Attention::new(pool, heads, params, queries, position);
    attention.add(&spans);
    attention.finish(out);
}
