//! Attention over KV pages, with MLX's operations: page by page, with an online softmax.

use flash_kv::{GROUP_LEN, KvParts, PAGE_TOKENS, PageFormat, TensorLayout};
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype, ops};
use parking_lot::Mutex;

use super::attention_mask;
use crate::ModelError;
use crate::compute::AttentionParams;
use crate::kv::{PageView, PagedLayer};

/// Queries of the new tokens, and the keys and values that are appended before they attend.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewTokens<'a> {
    pub queries: &'a Array,
    pub keys: &'a Array,
    pub values: Option<&'a Array>,
}

/// Appends `keys` and `values`, `[1, kv_heads, n, head_dim]`, to a layer's cache, and attends to it from `queries`,
/// `[1, heads, n, head_dim]`. Returns `[1, heads, n, value_dim]`.
///
/// `position` is that of the first new token. `values` is none if values are stored inside the keys. `sinks`, f32
/// `[heads]`, are additional logits in each head's softmax.
///
/// Evaluates page by page, since pages are loaded on demand. Errors of pages are recorded in the layer's pages, and the
/// result is zero, so that other rows of the pass see no NaN.
pub(super) fn attend(
    layer: &Mutex<PagedLayer>,
    params: &AttentionParams,
    position: usize,
    new: NewTokens<'_>,
    sinks: Option<&Array>,
) -> Result<Array, Exception> {
    let layer = &mut *layer.lock();
    let &[batch, n_heads, n, head_dim] = new.queries.shape() else {
        return Err(Exception::custom("queries of four dimensions"));
    };
    match Attention::new(layer, params, position, new, sinks)?.run() {
        Ok(attended) => Ok(attended),
        Err(ModelError::Mlx(error)) => Err(error),
        Err(error) => {
            layer.pages().fail(error);
            let value_dim = params.value_dim.unwrap_or(head_dim);
            ops::zeros::<f32>(&[batch, n_heads, n, value_dim])
        }
    }
}

struct Attention<'a> {
    layer: &'a mut PagedLayer,
    params: &'a AttentionParams,
    position: usize,
    /// Scaled, `[kv_heads, n, group, head_dim]`.
    queries: Array,
    /// `[n, kv_heads, head_dim]`, flat.
    keys: Array,
    /// `[n, kv_heads, head_dim]`, flat, if values are not stored inside the keys.
    values: Option<Array>,
    /// `[kv_heads, 1, group]`.
    sinks: Option<Array>,
}

/// The running state of an online softmax for some queries.
struct OnlineSoftmax {
    /// The greatest score, `[kv_heads, rows, 1]`.
    max: Array,
    /// The sum of e^(score − max), `[kv_heads, rows, 1]`.
    sum: Array,
    /// The sum of e^(score − max) · value, `[kv_heads, rows, value_dim]`.
    weighted: Array,
}

impl<'a> Attention<'a> {
    fn new(
        layer: &'a mut PagedLayer,
        params: &'a AttentionParams,
        position: usize,
        NewTokens { queries, keys, values }: NewTokens<'_>,
        sinks: Option<&Array>,
    ) -> Result<Self, Exception> {
        let &[_, n_heads, n, head_dim] = queries.shape() else {
            return Err(Exception::custom("queries of four dimensions"));
        };
        let n_kv_heads = keys.dim(1);
        let queries = queries.multiply(Array::from_f32(params.scale))?;
        let queries = queries.reshape(&[n_kv_heads, n_heads / n_kv_heads, n, head_dim])?;
        let queries = queries.transpose_axes(&[0, 2, 1, 3])?;
        let rows = |x: &Array| -> Result<Array, Exception> {
            // Flattening makes it row-contiguous, whatever the strides of `x`.
            x.squeeze_axes(&[0])?.transpose_axes(&[1, 0, 2])?.as_dtype(Dtype::Float32)?.reshape(&[-1])
        };
        let (keys, values) = (rows(keys)?, values.map(rows).transpose()?);
        let sinks = sinks.map(|sinks| sinks.reshape(&[n_kv_heads, 1, n_heads / n_kv_heads])).transpose()?;
        Ok(Self { layer, params, position, queries, keys, values, sinks })
    }

    fn run(self) -> Result<Array, ModelError> {
        let Self { layer, params, position, queries, keys, values, sinks } = self;
        let window = params.window;
        mlx_rs::transforms::eval([&keys].into_iter().chain(&values))?;
        let &[n_kv_heads, n, group, head_dim] = queries.shape() else {
            unreachable!("queries of four dimensions")
        };
        let token_len = (n_kv_heads * head_dim) as usize;
        let mut attended = Vec::new();
        for run in layer.runs(position..position + n as usize) {
            let tokens = run.start - position..run.end - position;
            let new = tokens.start * token_len..tokens.end * token_len;
            let new_values = values.as_ref().map(|values| &values.as_slice()[new.clone()]);
            layer.append(run.start, &keys.as_slice()[new.clone()], new_values)?;
            let rows = tokens.len() as i32 * group;
            let queries = queries.try_index((.., tokens.start as i32..tokens.end as i32, .., ..))?;
            let queries = queries.reshape(&[n_kv_heads, rows, head_dim])?;
            let first = window.map_or(0, |window| (run.start + 1).saturating_sub(window));
            // Sinks come first, once for all pages.
            let mut softmax = sinks
                .as_ref()
                .map(|sinks| OnlineSoftmax::of_sinks(sinks, rows, params.value_dim.unwrap_or(head_dim)))
                .transpose()?;
            layer.look(first..run.end, |pages| {
                for page in pages {
                    let next = OnlineSoftmax::of_page(&queries, page, run.start, params, group)?;
                    let all = match softmax.take() {
                        Some(before) => before.merge(&next)?,
                        None => next,
                    };
                    mlx_rs::transforms::eval([&all.max, &all.sum, &all.weighted])?;
                    softmax = Some(all);
                }
                Ok(())
            })?;
            let Some(OnlineSoftmax { sum, weighted, .. }) = softmax else { continue };
            attended.push(weighted.divide(sum)?.reshape(&[n_kv_heads, tokens.len() as i32, group, -1])?);
        }
        let attended = ops::concatenate(&attended, 1)?.transpose_axes(&[0, 2, 1, 3])?;
        Ok(attended.reshape(&[1, n_kv_heads * group, n, -1])?)
    }
}

impl OnlineSoftmax {
    /// Returns the state after the `sinks`, `[kv_heads, 1, group]`, for `rows` queries.
    fn of_sinks(sinks: &Array, rows: i32, value_dim: i32) -> Result<Self, Exception> {
        let &[n_kv_heads, _, group] = sinks.shape() else { unreachable!("sinks of three dimensions") };
        let max =
            ops::broadcast_to(sinks, &[n_kv_heads, rows / group, group])?.reshape(&[n_kv_heads, rows, 1])?;
        let sum = ops::ones::<f32>(max.shape())?;
        Ok(Self { max, sum, weighted: ops::zeros::<f32>(&[n_kv_heads, rows, value_dim])? })
    }

    /// Returns the state after a single page. Each position has `group` rows of queries, and the first is at
    /// `position`.
    fn of_page(
        queries: &Array,
        page: &PageView<'_>,
        position: usize,
        params: &AttentionParams,
        group: i32,
    ) -> Result<Self, Exception> {
        let window = params.window;
        let (n_rows, group) = (queries.dim(1) as usize, group as usize);
        let keys = decoded(page, page.layout.keys())?;
        let mut scores = ops::matmul(queries, keys.transpose_axes(&[0, 2, 1])?)?;
        let tokens = page.start..page.start + page.n_tokens;
        let last = position + n_rows.saturating_sub(1) / group;
        // Masks tokens after a row's own or outside of its window; most pages have none.
        let is_near = window.is_none_or(|window| last - page.start.min(last) < window);
        if tokens.end > position + 1 || !is_near {
            let mask = attention_mask((0..n_rows).map(|row| position + row / group), tokens, window);
            scores = ops::select(&mask, &scores, Array::from_f32(f32::NEG_INFINITY))?;
        }
        // Finite, so that a row with all tokens masked gives zeros.
        let max = ops::maximum(scores.max_axis(-1, true)?, Array::from_f32(f32::MIN))?;
        let weights = ops::exp(scores.subtract(&max)?)?;
        let sum = weights.sum_axis(-1, true)?;
        let values = match page.layout.parts() {
            KvParts::KeysAndValues => decoded(page, page.layout.values())?,
            KvParts::KeysOnly => params.values_in(&keys)?,
        };
        let weighted = ops::matmul(&weights, values)?;
        Ok(Self { max, sum, weighted })
    }

    /// Merges two states by rescaling their sums to the common maximum.
    fn merge(&self, next: &Self) -> Result<Self, Exception> {
        let max = ops::maximum(&self.max, &next.max)?;
        let (old, new) = (ops::exp(self.max.subtract(&max)?)?, ops::exp(next.max.subtract(&max)?)?);
        let sum = |a: &Array, b: &Array| a.multiply(&old)?.add(b.multiply(&new)?);
        Ok(Self { sum: sum(&self.sum, &next.sum)?, weighted: sum(&self.weighted, &next.weighted)?, max })
    }
}

/// Decodes the keys or values of a page to f32 `[kv_heads, n_tokens, head_dim]`. Copies the stored page.
fn decoded(page: &PageView<'_>, half: &TensorLayout) -> Result<Array, Exception> {
    let PageView { layout, record, n_tokens, .. } = *page;
    let (heads, head_dim) = (layout.kv_heads() as i32, layout.head_dim() as i32);
    let page_tokens = PAGE_TOKENS as i32;
    let codes = &record[half.codes.clone()];
    let numbers = match layout.format() {
        PageFormat::F32 => {
            Array::from_slice(bytemuck::cast_slice::<u8, f32>(codes), &[heads, page_tokens, head_dim])
        }
        PageFormat::F16 => {
            let halves = bytemuck::cast_slice::<u8, half::f16>(codes);
            Array::from_slice(halves, &[heads, page_tokens, head_dim]).as_dtype(Dtype::Float32)?
        }
        PageFormat::Int8 => {
            let codes = Array::from_slice(codes, &[heads, page_tokens, head_dim]);
            affine(&codes, page, half)?
        }
        _ => {
            let codes: Vec<u8> = codes.iter().flat_map(|pair| [pair & 15, pair >> 4]).collect();
            let codes = Array::from_slice(&codes, &[heads, page_tokens, 2 * layout.row_bytes() as i32]);
            affine(&codes.try_index((.., .., ..head_dim))?, page, half)?
        }
    };
    numbers.try_index((.., ..n_tokens as i32, ..))
}

/// Dequantizes codes `[kv_heads, tokens, head_dim]` as `bias + scale · code`.
fn affine(codes: &Array, page: &PageView<'_>, half: &TensorLayout) -> Result<Array, Exception> {
    let &[heads, tokens, head_dim] = codes.shape() else { unreachable!("codes of three dimensions") };
    let n_groups = page.layout.n_groups() as i32;
    let terms = |range: std::ops::Range<usize>| -> Result<Array, Exception> {
        let terms = bytemuck::cast_slice::<u8, f32>(&page.record[range]);
        let terms = Array::from_slice(terms, &[heads, tokens, n_groups]);
        // Each scale or bias applies to the columns of its group.
        let terms = ops::repeat_axis::<f32>(terms, GROUP_LEN as i32, -1)?;
        terms.try_index((.., .., ..head_dim))
    };
    let codes = codes.as_dtype(Dtype::Float32)?;
    terms(half.scales.clone())?.multiply(codes)?.add(terms(half.biases.clone())?)
}
