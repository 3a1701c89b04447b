//! Attention over KV pages.

use flash_kernels::{Attention, Heads, KvCodes, KvRows, Span};
use flash_kv::{GROUP_LEN, KvParts, PageFormat, TensorLayout};

use super::{NewTokens, window_start};
use crate::ModelError;
use crate::kv::{PageView, PagedLayer};

/// Appends the new tokens to the pages of `layer`, and attends to all tokens so far.
///
/// A kernel cannot report errors to MLX: the pages record them, and the end of the pass reports them. What this context
/// computes after an error is discarded, and is zero here: other rows of the pass must not see a NaN.
pub(super) fn attend(new: NewTokens<'_>, layer: &mut PagedLayer, out: &mut [f32]) {
    if !layer.pages().has_failed() {
        match try_attend(new, layer, out) {
            Ok(()) => return,
            Err(error) => layer.pages().fail(error),
        }
    }
    out.fill(0.0);
}

fn try_attend(new: NewTokens<'_>, layer: &mut PagedLayer, out: &mut [f32]) -> Result<(), ModelError> {
    let NewTokens { pool, heads, params, position, queries, keys, values } = new;
    let Heads { query_heads, kv_heads, head_dim, value_dim } = heads;
    let (row_len, token_len) = (query_heads * head_dim, kv_heads * head_dim);
    let end = position + queries.len() / row_len;
    for run in layer.runs(position..end) {
        let tokens = run.start - position..run.end - position;
        let new = tokens.start * token_len..tokens.end * token_len;
        layer.append(run.start, &keys[new.clone()], values.map(|values| &values[new]))?;
        let rows = tokens.start * row_len..tokens.end * row_len;
        let first = window_start(params.window, run.start);
        let mut attention = Attention::new(pool, heads, params, &queries[rows], run.start);
        layer.look(first..run.end, |pages| {
            let spans: Vec<_> = pages.iter().map(span).collect();
            attention.add(&spans);
            Ok(())
        })?;
        let out_len = query_heads * value_dim;
        attention.finish(&mut out[tokens.start * out_len..tokens.end * out_len]);
    }
    Ok(())
}

/// Returns a page as a span of the attention kernel.
fn span<'a>(page: &PageView<'a>) -> Span<'a> {
    let PageView { start, n_tokens, layout, record } = *page;
    let numbers = |half: &TensorLayout| {
        let codes = &record[half.codes.clone()];
        let (scales, biases) = (&record[half.scales.clone()], &record[half.biases.clone()]);
        let affine = || KvCodes::from_bytes(codes, scales, biases, GROUP_LEN);
        match layout.format() {
            PageFormat::F32 => KvRows::F32(bytemuck::cast_slice(codes)),
            PageFormat::F16 => KvRows::F16(bytemuck::cast_slice(codes)),
            PageFormat::Int8 => KvRows::Affine8(affine()),
            PageFormat::Int4 => KvRows::Affine4(affine()),
            format => unreachable!("no cache has the format {format}"),
        }
    };
    let head_tokens = flash_kv::PAGE_TOKENS;
    let values = match layout.parts() {
        KvParts::KeysAndValues => Some(numbers(layout.values())),
        KvParts::KeysOnly => None,
    };
    Span { start, n_tokens, head_tokens, keys: numbers(layout.keys()), values }
}
