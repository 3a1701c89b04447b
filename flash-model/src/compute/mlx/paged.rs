//! Attention over pages, in MLX's operations: page by page, with a softmax that goes on from page to page.

use flash_kv::{GROUP_LEN, HalfLayout, Halves, PAGE_TOKENS, PageFormat};
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype, ops};
use parking_lot::Mutex;

use super::seen;
use crate::ModelError;
use crate::compute::AttentionParams;
use crate::kv::{PageView, PagedLayer};

/// What attends, and what is appended before it does.
#[derive(Debug, Clone, Copy)]
pub(super) struct New<'a> {
    pub queries: &'a Array,
    pub keys: &'a Array,
    pub values: Option<&'a Array>,
}

/// Attends from `queries`, `[1, heads, n, head_dim]`, to what the layer holds, to which it appends `keys` and `values`, `[1,
/// kv_heads, n, head_dim]`; the first stands at `position`. There are no values if they are in the keys. `sinks`, f32 `[heads]`, are
/// scores that each head's softmax has beside those of the tokens. The result is `[1, heads, n, value_dim]`.
///
/// Evaluates as it goes: pages come and go. What goes wrong with one is told by the pages, not here.
pub(super) fn attend(
    layer: &Mutex<PagedLayer>,
    params: &AttentionParams,
    position: usize,
    new: New<'_>,
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
            ops::full::<f32>(&[batch, n_heads, n, value_dim], Array::from_f32(f32::NAN))
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
    /// Likewise, if they are not in the keys.
    values: Option<Array>,
    /// `[kv_heads, 1, group]`.
    sinks: Option<Array>,
}

/// What some queries have seen so far.
struct Seen {
    /// The greatest score, `[kv_heads, rows, 1]`.
    max: Array,
    /// The sum of e^(score − max), of the same shape.
    sum: Array,
    /// The sum of e^(score − max) · value, `[kv_heads, rows, value_dim]`.
    mixture: Array,
}

impl<'a> Attention<'a> {
    fn new(
        layer: &'a mut PagedLayer,
        params: &'a AttentionParams,
        position: usize,
        New { queries, keys, values }: New<'_>,
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
            // Flat, so that it lies row by row however it was made.
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
        let &[n_kv_heads, n, group, head_dim] = queries.shape() else { unreachable!("made with four") };
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
            // Where there are sinks they come first, once for all pages.
            let mut seen = sinks
                .as_ref()
                .map(|sinks| Seen::of_sinks(sinks, rows, params.value_dim.unwrap_or(head_dim)))
                .transpose()?;
            layer.look(first..run.end, |pages| {
                for page in pages {
                    let next = Seen::of(&queries, page, run.start, params, group)?;
                    let all = match seen.take() {
                        Some(before) => before.merge(&next)?,
                        None => next,
                    };
                    mlx_rs::transforms::eval([&all.max, &all.sum, &all.mixture])?;
                    seen = Some(all);
                }
                Ok(())
            })?;
            let Some(Seen { sum, mixture, .. }) = seen else { continue };
            attended.push(mixture.divide(sum)?.reshape(&[n_kv_heads, tokens.len() as i32, group, -1])?);
        }
        let attended = ops::concatenate(&attended, 1)?.transpose_axes(&[0, 2, 1, 3])?;
        Ok(attended.reshape(&[1, n_kv_heads * group, n, -1])?)
    }
}

impl Seen {
    /// What the rows of `queries` know of their `sinks`, `[kv_heads, 1, group]`.
    fn of_sinks(sinks: &Array, rows: i32, value_dim: i32) -> Result<Self, Exception> {
        let &[n_kv_heads, _, group] = sinks.shape() else { unreachable!("made with three") };
        let max =
            ops::broadcast_to(sinks, &[n_kv_heads, rows / group, group])?.reshape(&[n_kv_heads, rows, 1])?;
        let sum = ops::ones::<f32>(max.shape())?;
        Ok(Self { max, sum, mixture: ops::zeros::<f32>(&[n_kv_heads, rows, value_dim])? })
    }

    /// What the rows see of a page; the first stands at `position`, and `group` of them at each.
    fn of(
        queries: &Array,
        page: &PageView<'_>,
        position: usize,
        params: &AttentionParams,
        group: i32,
    ) -> Result<Self, Exception> {
        let window = params.window;
        let (n_rows, group) = (queries.dim(1) as usize, group as usize);
        let keys = numbers(page, page.layout.keys())?;
        let mut scores = ops::matmul(queries, keys.transpose_axes(&[0, 2, 1])?)?;
        let tokens = page.start..page.start + page.n_tokens;
        let last = position + n_rows.saturating_sub(1) / group;
        // Tokens behind a row's own, or out of its window; in most pages there are none.
        let is_near = window.is_none_or(|window| last - page.start.min(last) < window);
        if tokens.end > position + 1 || !is_near {
            let is_seen = seen((0..n_rows).map(|row| position + row / group), tokens, window);
            scores = ops::select(&is_seen, &scores, Array::from_f32(f32::NEG_INFINITY))?;
        }
        // Finite, so that a row that sees nothing of the page gives zeroes.
        let max = ops::maximum(scores.max_axis(-1, true)?, Array::from_f32(f32::MIN))?;
        let weights = ops::exp(scores.subtract(&max)?)?;
        let sum = weights.sum_axis(-1, true)?;
        let values = match page.layout.halves() {
            Halves::KeysAndValues => numbers(page, page.layout.values())?,
            Halves::Keys => params.values_in(&keys)?,
        };
        let mixture = ops::matmul(&weights, values)?;
        Ok(Self { max, sum, mixture })
    }

    fn merge(&self, next: &Self) -> Result<Self, Exception> {
        let max = ops::maximum(&self.max, &next.max)?;
        let (old, new) = (ops::exp(self.max.subtract(&max)?)?, ops::exp(next.max.subtract(&max)?)?);
        let sum = |a: &Array, b: &Array| a.multiply(&old)?.add(b.multiply(&new)?);
        Ok(Self { sum: sum(&self.sum, &next.sum)?, mixture: sum(&self.mixture, &next.mixture)?, max })
    }
}

/// Keys or values of a page, f32 `[kv_heads, n_tokens, head_dim]`. Copies what is stored, a page and no more.
fn numbers(page: &PageView<'_>, half: &HalfLayout) -> Result<Array, Exception> {
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

/// `bias + scale · code`, of codes `[kv_heads, tokens, head_dim]`.
fn affine(codes: &Array, page: &PageView<'_>, half: &HalfLayout) -> Result<Array, Exception> {
    let &[heads, tokens, head_dim] = codes.shape() else { unreachable!("codes of three dimensions") };
    let n_groups = page.layout.n_groups() as i32;
    let terms = |range: std::ops::Range<usize>| -> Result<Array, Exception> {
        let terms = bytemuck::cast_slice::<u8, f32>(&page.record[range]);
        let terms = Array::from_slice(terms, &[heads, tokens, n_groups]);
        // Each for the columns of its group.
        let terms = ops::repeat_axis::<f32>(terms, GROUP_LEN as i32, -1)?;
        terms.try_index((.., .., ..head_dim))
    };
    let codes = codes.as_dtype(Dtype::Float32)?;
    terms(half.scales.clone())?.multiply(codes)?.add(terms(half.biases.clone())?)
}
