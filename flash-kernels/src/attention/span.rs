//! Spans of the KV cache and their storage formats.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{Heads, SPAN_TOKENS};

/// Keys and values of consecutive tokens that are stored together.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// Position of the first token: a multiple of [`SPAN_TOKENS`].
    pub start: usize,
    /// Number of tokens, at most [`SPAN_TOKENS`].
    pub n_tokens: usize,
    /// Distance between two heads, in tokens; at least `n_tokens`.
    pub head_tokens: usize,
    /// Keys, `[kv_heads, head_tokens, head_dim]`; the last head may end after `n_tokens`.
    pub keys: KvRows<'a>,
    /// Values, of the shape of the keys; `None` if a value is the last [`Heads::value_dim`] numbers of its key.
    pub values: Option<KvRows<'a>>,
}

/// Row-major numbers in a storage format of the KV cache.
#[derive(Debug, Clone, Copy)]
pub enum KvRows<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Half precision.
    F16(&'a [f16]),
    /// 8-bit codes: `bias + scale · code`.
    Affine8(KvCodes<'a>),
    /// 4-bit codes, the even column in the low half of a byte. Rows start at byte boundaries, so an odd row length
    /// leaves half a byte unused.
    Affine4(KvCodes<'a>),
}

/// Affine codes with a scale and a bias per group of columns.
#[derive(Debug, Clone, Copy)]
pub struct KvCodes<'a> {
    /// `[rows, columns]`, or `[rows, columns.div_ceil(2)]` for 4-bit codes.
    pub codes: &'a [u8],
    /// `[rows, columns.div_ceil(group)]`.
    pub scales: &'a [f32],
    /// `[rows, columns.div_ceil(group)]`.
    pub biases: &'a [f32],
    /// Columns per group; even.
    pub group: usize,
}

impl<'a> KvCodes<'a> {
    /// Codes whose scales and biases, both f32, are given as bytes.
    ///
    /// # Panics
    /// If the bytes are not whole numbers, or not aligned as they are.
    pub fn from_bytes(codes: &'a [u8], scales: &'a [u8], biases: &'a [u8], group: usize) -> Self {
        Self { codes, scales: bytemuck::cast_slice(scales), biases: bytemuck::cast_slice(biases), group }
    }
}

/// Rows of codes to dequantize.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CodedRows<'a> {
    codes: KvCodes<'a>,
    columns: usize,
    is_eight: bool,
}

impl<'a> Span<'a> {
    /// Returns `numbers`, the keys or values, of one head as `[n_tokens, head_dim]`, decoded into `scratch` unless
    /// stored as f32.
    pub(super) fn head<'b>(
        &self,
        numbers: KvRows<'a>,
        kv_head: usize,
        head_dim: usize,
        dequantize: Dequantize,
        scratch: &'b mut Vec<f32>,
    ) -> &'b [f32]
    where
        'a: 'b,
    {
        let (row, n_rows) = (kv_head * self.head_tokens, self.n_tokens);
        let len = n_rows * head_dim;
        if let KvRows::F32(numbers) = numbers {
            return &numbers[row * head_dim..][..len];
        }
        if scratch.len() < len {
            scratch.resize(len, 0.0);
        }
        let out = &mut scratch[..len];
        match numbers {
            KvRows::F32(_) => {}
            KvRows::F16(numbers) => numbers[row * head_dim..][..len].convert_to_f32_slice(out),
            KvRows::Affine8(codes) => dequantize(codes.rows(row, n_rows, head_dim, true), out),
            KvRows::Affine4(codes) => dequantize(codes.rows(row, n_rows, head_dim, false), out),
        }
        out
    }

    /// Checks the span against the heads.
    ///
    /// # Panics
    /// If the span is not aligned or too long, or its slices are too short for the heads.
    pub(super) fn check(&self, heads: Heads) {
        let Heads { kv_heads, head_dim, value_dim, .. } = heads;
        assert!(self.values.is_none() || value_dim == head_dim, "separate values have the dimension of keys");
        let Self { start, n_tokens, head_tokens, .. } = *self;
        assert!(
            start.is_multiple_of(SPAN_TOKENS),
            "a span starts at {start}, not at a multiple of {SPAN_TOKENS}"
        );
        assert!(
            n_tokens <= SPAN_TOKENS.min(head_tokens),
            "a span of {n_tokens} tokens, {head_tokens} a head"
        );
        let rows = (kv_heads - 1) * head_tokens + n_tokens;
        for numbers in [self.keys].into_iter().chain(self.values) {
            let got_rows = match numbers {
                KvRows::F32(numbers) => numbers.len() / head_dim,
                KvRows::F16(numbers) => numbers.len() / head_dim,
                KvRows::Affine8(codes) => codes.n_rows(head_dim, true),
                KvRows::Affine4(codes) => codes.n_rows(head_dim, false),
            };
            assert!(got_rows >= rows, "{got_rows} rows of {head_dim} numbers, {rows} wanted");
        }
    }
}

impl<'a> KvCodes<'a> {
    /// Number of whole rows of `columns` covered by the codes, scales and biases.
    ///
    /// # Panics
    /// If the group length is odd or zero.
    fn n_rows(&self, columns: usize, is_eight: bool) -> usize {
        assert!(
            self.group > 0 && self.group.is_multiple_of(2),
            "groups of {} columns are odd or empty",
            self.group
        );
        let n_terms = self.scales.len().min(self.biases.len());
        (self.codes.len() / row_bytes(columns, is_eight)).min(n_terms / columns.div_ceil(self.group))
    }

    fn rows(&self, start: usize, n: usize, columns: usize, is_eight: bool) -> CodedRows<'a> {
        let row_bytes = row_bytes(columns, is_eight);
        let n_groups = columns.div_ceil(self.group);
        let codes = KvCodes {
            codes: &self.codes[start * row_bytes..][..n * row_bytes],
            scales: &self.scales[start * n_groups..][..n * n_groups],
            biases: &self.biases[start * n_groups..][..n * n_groups],
            group: self.group,
        };
        CodedRows { codes, columns, is_eight }
    }
}

/// Bytes per row of codes.
#[inline(always)]
const fn row_bytes(columns: usize, is_eight: bool) -> usize {
    if is_eight { columns } else { columns.div_ceil(2) }
}

/// Type of [`dequantize`], compiled for an instruction set.
pub(crate) type Dequantize = fn(rows: CodedRows<'_>, out: &mut [f32]);

/// Dequantizes rows of codes into `out`, `[rows, columns]`. Multiplies, then adds (not fused), so every instruction set
/// gives the same bits.
#[inline(always)]
pub(crate) fn dequantize(rows: CodedRows<'_>, out: &mut [f32]) {
    let CodedRows { codes: KvCodes { codes, scales, biases, group }, columns, is_eight } = rows;
    let row_bytes = row_bytes(columns, is_eight);
    let n_groups = columns.div_ceil(group);
    let rows = out.chunks_exact_mut(columns).zip(codes.chunks_exact(row_bytes));
    let terms = scales.chunks_exact(n_groups).zip(biases.chunks_exact(n_groups));
    for ((out, codes), (scales, biases)) in rows.zip(terms) {
        let group_bytes = if is_eight { group } else { group / 2 };
        let groups = out.chunks_mut(group).zip(codes.chunks(group_bytes));
        for ((out, codes), (scale, bias)) in groups.zip(scales.iter().zip(biases)) {
            if is_eight {
                dequantize_eight(codes, *scale, *bias, out);
            } else {
                dequantize_four(codes, *scale, *bias, out);
            }
        }
    }
}

// Loops over slices of unknown length: the compiler unrolls constant lengths instead of vectorizing them.
#[inline(always)]
fn dequantize_eight(codes: &[u8], scale: f32, bias: f32, out: &mut [f32]) {
    for (out, code) in out.iter_mut().zip(codes) {
        *out = scale * f32::from(*code) + bias;
    }
}

/// Pairs of 4-bit codes unpacked at a time.
const PAIRS: usize = 32;

#[inline(always)]
fn dequantize_four(codes: &[u8], scale: f32, bias: f32, out: &mut [f32]) {
    let mut unpacked = [0_u16; PAIRS];
    for (out, codes) in out.chunks_mut(2 * PAIRS).zip(codes.chunks(PAIRS)) {
        for (unpacked, pair) in unpacked.iter_mut().zip(codes) {
            // The even code goes to the first byte.
            let pair = u16::from(*pair);
            *unpacked = ((pair | pair << 4) & 0x0f0f).to_le();
        }
        dequantize_eight(bytemuck::cast_slice(&unpacked), scale, bias, out);
    }
}
