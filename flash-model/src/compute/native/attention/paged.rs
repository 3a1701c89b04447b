//! Attention over KV pages.

use std::sync::Arc;

use flash_kernels::{Attention, Heads, KvCodes, KvRows, Pool, Span};
use flash_kv::{GROUP_LEN, KvParts, PageFormat, TensorLayout};
use parking_lot::Mutex;

use super::attention::{Prepared, Projections, window_start};
use crate::ModelError;
use crate::kv::{PageView, PagedLayer};
use crate::mlx::kernel::Kernel;

/// A kernel that appends to the pages of a layer, and attends to them. Inputs: those of [`Projections`].
pub(super) struct PagedAttention {
    pub pool: Arc<Pool>,
    pub kernel_params: flash_kernels::AttentionParams<'static>,
    pub projections: Projections,
    pub layer: Arc<Mutex<PagedLayer>>,
}

impl PagedAttention {
    fn attend(&self, inputs: &[&[u8]], out: &mut [f32]) -> Result<(), ModelError> {
        let Self { pool, kernel_params, projections, layer } = self;
        let layer = &mut *layer.lock();
        let Projections { heads, position, .. } = *projections;
        let Heads { query_heads, kv_heads, head_dim, value_dim } = heads;
        let (row_len, token_len) = (query_heads * head_dim, kv_heads * head_dim);
        let Prepared { queries, keys, values, sinks } = projections.prepare(pool, inputs);
        let kernel_params = flash_kernels::AttentionParams { sinks: sinks.as_deref(), ..*kernel_params };
        let end = position + queries.len() / row_len;
        for run in layer.runs(position..end) {
            let tokens = run.start - position..run.end - position;
            let new = tokens.start * token_len..tokens.end * token_len;
            layer.append(run.start, &keys[new.clone()], values.map(|values| &values[new]))?;
            let rows = tokens.start * row_len..tokens.end * row_len;
            let first = window_start(kernel_params.window, run.start);
            let mut attention = Attention::new(pool, heads, kernel_params, &queries[rows], run.start);
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

impl Kernel for PagedAttention {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
        let pages = Arc::clone(self.layer.lock().pages());
        // A kernel cannot report errors to MLX: the pages record them, and later results of this pass are discarded.
        if !pages.has_failed() {
            match self.attend(inputs, outputs[0]) {
                Ok(()) => return,
                Err(error) => pages.fail(error),
            }
        }
        outputs[0].fill(f32::NAN);
    }
}
