//! Where the keys and values of some tokens lie, and in what format.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{Heads, SPAN_TOKENS};

/// Tokens that follow each other, whose keys and values lie together.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// Position of the first token: a multiple of [`SPAN_TOKENS`].
    pub start: usize,
    /// How many there are: at most [`SPAN_TOKENS`].
    pub n_tokens: usize,
    /// Tokens from the first one of a head to the first one of the next head; at least `n_tokens`.
    pub head_tokens: usize,
    /// Their keys, `[kv_heads, head_tokens, head_dim]`; of the last head, `n_tokens` are enough.
    pub keys: Numbers<'a>,
    /// Their values, of the same shape; none if they are in the keys.
    pub values: Option<Numbers<'a>>,
}

/// Numbers, row-major, as a cache stores them.
#[derive(Debug, Clone, Copy)]
pub enum Numbers<'a> {
    /// As computed.
    F32(&'a [f32]),
    /// Half precision.
    F16(&'a [f16]),
    /// One code in a byte: `bias + scale · code`.
    Affine8(Codes<'a>),
    /// Two codes in a byte, the one of the even column in its low half. Each row begins at a byte, so an odd row leaves half a
    /// byte over.
    Affine4(Codes<'a>),
}

/// Codes whose scale and bias are shared by groups of columns.
#[derive(Debug, Clone, Copy)]
pub struct Codes<'a> {
    /// `[rows, columns]`, or `[rows, columns.div_ceil(2)]` with two codes in a byte.
    pub codes: &'a [u8],
    /// `[rows, columns.div_ceil(group)]`.
    pub scales: &'a [f32],
    /// Likewise.
    pub biases: &'a [f32],
    /// Columns of a group; even.
    pub group: usize,
}

/// Rows of codes, to be made numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CodedRows<'a> {
    codes: Codes<'a>,
    columns: usize,
    is_eight: bool,
}

impl<'a> Span<'a> {
    /// Those of one head of `numbers`, which are its keys or values: `[n_tokens, head_dim]`, as they are or in `scratch`.
    pub(super) fn head<'b>(
        &self,
        numbers: Numbers<'a>,
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
        if let Numbers::F32(numbers) = numbers {
            return &numbers[row * head_dim..][..len];
        }
        if scratch.len() < len {
            scratch.resize(len, 0.0);
        }
        let out = &mut scratch[..len];
        match numbers {
            Numbers::F32(_) => {}
            Numbers::F16(numbers) => numbers[row * head_dim..][..len].convert_to_f32_slice(out),
            Numbers::Affine8(codes) => dequantize(codes.rows(row, n_rows, head_dim, true), out),
            Numbers::Affine4(codes) => dequantize(codes.rows(row, n_rows, head_dim, false), out),
        }
        out
    }

    /// # Panics
    /// If it is no span, or too short for the heads.
    pub(super) fn check(&self, heads: Heads) {
        let Heads { kv_heads, head_dim, value_dim, .. } = heads;
        assert!(self.values.is_none() || value_dim == head_dim, "values beside keys are as long");
        let Self { start, n_tokens, head_tokens, .. } = *self;
        assert!(start.is_multiple_of(SPAN_TOKENS), "a span at {start}");
        assert!(
            n_tokens <= SPAN_TOKENS.min(head_tokens),
            "a span of {n_tokens} tokens, {head_tokens} a head"
        );
        let rows = (kv_heads - 1) * head_tokens + n_tokens;
        for numbers in [self.keys].into_iter().chain(self.values) {
            let got_rows = match numbers {
                Numbers::F32(numbers) => numbers.len() / head_dim,
                Numbers::F16(numbers) => numbers.len() / head_dim,
                Numbers::Affine8(codes) => codes.n_rows(head_dim, true),
                Numbers::Affine4(codes) => codes.n_rows(head_dim, false),
            };
            assert!(got_rows >= rows, "{got_rows} rows of {head_dim} numbers, {rows} wanted");
        }
    }
}

impl<'a> Codes<'a> {
    /// Whole rows of `columns` that there are codes, scales and biases of.
    ///
    /// # Panics
    /// If groups are odd or empty.
    fn n_rows(&self, columns: usize, is_eight: bool) -> usize {
        assert!(self.group > 0 && self.group.is_multiple_of(2), "groups of {}", self.group);
        let n_terms = self.scales.len().min(self.biases.len());
        (self.codes.len() / row_bytes(columns, is_eight)).min(n_terms / columns.div_ceil(self.group))
    }

    fn rows(&self, start: usize, n: usize, columns: usize, is_eight: bool) -> CodedRows<'a> {
        let row_bytes = row_bytes(columns, is_eight);
        let n_groups = columns.div_ceil(self.group);
        let codes = Codes {
            codes: &self.codes[start * row_bytes..][..n * row_bytes],
            scales: &self.scales[start * n_groups..][..n * n_groups],
            biases: &self.biases[start * n_groups..][..n * n_groups],
            group: self.group,
        };
        CodedRows { codes, columns, is_eight }
    }
}

/// Bytes from one row of codes to the next.
#[inline(always)]
const fn row_bytes(columns: usize, is_eight: bool) -> usize {
    if is_eight { columns } else { columns.div_ceil(2) }
}

/// [`dequantize`], compiled for an instruction set.
pub(crate) type Dequantize = fn(rows: CodedRows<'_>, out: &mut [f32]);

/// Makes numbers of codes: `out` is `[rows, columns]`. Multiplies, then adds, so every instruction set gives the same bits.
#[inline(always)]
pub(crate) fn dequantize(rows: CodedRows<'_>, out: &mut [f32]) {
    let CodedRows { codes: Codes { codes, scales, biases, group }, columns, is_eight } = rows;
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

// Loops over slices, whose length is not known: those of constant length are unrolled, and then no vectors.
#[inline(always)]
fn dequantize_eight(codes: &[u8], scale: f32, bias: f32, out: &mut [f32]) {
    for (out, code) in out.iter_mut().zip(codes) {
        *out = scale * f32::from(*code) + bias;
    }
}

/// Pairs of codes that are unpacked at a time.
const PAIRS: usize = 32;

#[inline(always)]
fn dequantize_four(codes: &[u8], scale: f32, bias: f32, out: &mut [f32]) {
    let mut unpacked = [0_u16; PAIRS];
    for (out, codes) in out.chunks_mut(2 * PAIRS).zip(codes.chunks(PAIRS)) {
        for (unpacked, pair) in unpacked.iter_mut().zip(codes) {
            // The even code in the byte that comes first.
            let pair = u16::from(*pair);
            *unpacked = ((pair | pair << 4) & 0x0f0f).to_le();
        }
        dequantize_eight(bytemuck::cast_slice(&unpacked), scale, bias, out);
    }
}
