//! Attention to tokens that are masked for some rows, or whose values are not finite.

mod common;

use common::{Random, bits, pool};
use flash_kernels::{
    Attention, AttentionParams, Heads, Isa, KeysValues, KvCodes, KvRows, SPAN_TOKENS, Span, attend,
};
use half::f16;

/// Columns per scale.
const GROUP: usize = 64;

const TOKENS: usize = 2 * SPAN_TOKENS + 40;

/// Values of two KV heads, `[kv_heads, TOKENS, head_dim]`, as spans in one format.
enum Values {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Affine { codes: Vec<u8>, scales: Vec<f32>, biases: Vec<f32>, is_eight: bool },
}

impl Values {
    /// Random values in `format`; those of the token `bad` are replaced.
    fn new(format: usize, heads: Heads, bad: Option<(usize, f32)>) -> Self {
        let mut random = Random(3);
        let Heads { kv_heads, head_dim, .. } = heads;
        let row_idx = |head: usize, token: usize| head * TOKENS + token;
        let corrupt = |numbers: &mut [f32], row_len: usize| {
            for head in 0..kv_heads {
                if let Some((token, value)) = bad {
                    numbers[row_idx(head, token) * row_len..][..row_len].fill(value);
                }
            }
        };
        let n_rows = kv_heads * TOKENS;
        if format < 2 {
            let mut numbers = random.vec(n_rows * head_dim);
            corrupt(&mut numbers, head_dim);
            let half = |number: &f32| f16::from_f32(*number);
            return if format == 0 {
                Self::F32(numbers)
            } else {
                Self::F16(numbers.iter().map(half).collect())
            };
        }
        let is_eight = format == 2;
        let row_bytes = if is_eight { head_dim } else { head_dim / 2 };
        let codes = (0..n_rows * row_bytes).map(|_| random.bits() as u8).collect();
        let n_groups = head_dim.div_ceil(GROUP);
        let (scales, mut biases) = (random.vec(n_rows * n_groups), random.vec(n_rows * n_groups));
        corrupt(&mut biases, n_groups);
        Self::Affine { codes, scales, biases, is_eight }
    }

    fn span(&self, start: usize, head_dim: usize) -> KvRows<'_> {
        match self {
            Self::F32(numbers) => KvRows::F32(&numbers[start * head_dim..]),
            Self::F16(numbers) => KvRows::F16(&numbers[start * head_dim..]),
            Self::Affine { codes, scales, biases, is_eight } => {
                let row_bytes = if *is_eight { head_dim } else { head_dim / 2 };
                let groups = start * head_dim.div_ceil(GROUP)..;
                let (scales, biases) = (&scales[groups.clone()], &biases[groups]);
                let codes = KvCodes { codes: &codes[start * row_bytes..], scales, biases, group: GROUP };
                if *is_eight { KvRows::Affine8(codes) } else { KvRows::Affine4(codes) }
            }
        }
    }
}

struct Case {
    heads: Heads,
    params: AttentionParams<'static>,
    isa: Isa,
    n_threads: usize,
    /// Number of query tokens, the last tokens of the context.
    n: usize,
}

impl Case {
    /// `[n, query_heads, head_dim]`.
    fn attend(&self, values: &Values) -> Vec<f32> {
        let Heads { query_heads, kv_heads, head_dim, .. } = self.heads;
        let keys = Random(1).vec(kv_heads * TOKENS * head_dim);
        let queries = Random(2).vec(self.n * query_heads * head_dim);
        let span = |start: usize| Span {
            start,
            n_tokens: SPAN_TOKENS.min(TOKENS - start),
            head_tokens: TOKENS,
            keys: KvRows::F32(&keys[start * head_dim..]),
            values: Some(values.span(start, head_dim)),
        };
        let spans: Vec<_> = (0..TOKENS).step_by(SPAN_TOKENS).map(span).collect();
        let pool = pool(self.n_threads, self.isa);
        let mut attention = Attention::new(&pool, self.heads, self.params, &queries, TOKENS - self.n);
        attention.add(&spans);
        let mut out = vec![0.0; queries.len()];
        attention.finish(&mut out);
        out
    }

    fn sees(&self, row: usize, token: usize) -> bool {
        let position = TOKENS - self.n + row;
        token <= position && self.params.window.is_none_or(|window| position - token < window)
    }
}

fn cases() -> impl Iterator<Item = Case> {
    let heads = [Heads::new(2, 2, 64), Heads::new(6, 2, 80), Heads::new(2, 1, 16)];
    let windows = [None, Some(30), Some(SPAN_TOKENS + 45)];
    Isa::available().iter().flat_map(move |isa| {
        heads.into_iter().flat_map(move |heads| {
            windows.into_iter().flat_map(move |window| {
                [1, 100, TOKENS].map(|n| {
                    let params = AttentionParams { scale: 0.2, window, sinks: None };
                    Case { heads, params, isa: *isa, n_threads: 1 + n % 3, n }
                })
            })
        })
    })
}

#[test]
fn a_value_that_is_not_finite_changes_no_row_that_does_not_see_it() {
    let places = [0, SPAN_TOKENS - 1, TOKENS - 60, TOKENS - 1];
    for case in cases() {
        let row_len = case.heads.query_heads * case.heads.head_dim;
        for format in 0..4 {
            let clean = case.attend(&Values::new(format, case.heads, None));
            assert!(clean.iter().all(|value| value.is_finite()));
            for (place, value) in
                places.into_iter().zip([f32::INFINITY, f32::NEG_INFINITY, f32::NAN].into_iter().cycle())
            {
                let corrupted = case.attend(&Values::new(format, case.heads, Some((place, value))));
                for row in 0..case.n {
                    let [clean, corrupted] = [&clean, &corrupted].map(|out| &out[row * row_len..][..row_len]);
                    if case.sees(row, place) {
                        assert!(
                            corrupted.iter().all(|value| !value.is_finite()),
                            "row {row} sees token {place}"
                        );
                    } else {
                        assert_eq!(bits(corrupted), bits(clean), "row {row} does not see token {place}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_span_without_a_score_above_minus_infinity_counts_as_nothing() {
    let heads = Heads::new(2, 1, 32);
    let n = TOKENS - SPAN_TOKENS;
    for isa in Isa::available() {
        let mut keys: Vec<f32> = Random(1).vec(TOKENS * 32).iter().map(|key| key.abs()).collect();
        let values = Random(2).vec(TOKENS * 32);
        let queries: Vec<f32> = Random(3).vec(n * 64).iter().map(|query| query.abs() + 0.1).collect();
        // Mask the whole first span, and all but one token of the second.
        keys[..SPAN_TOKENS * 32].fill(f32::NEG_INFINITY);
        keys[(SPAN_TOKENS + 1) * 32..2 * SPAN_TOKENS * 32].fill(f32::NEG_INFINITY);
        let attend = |keys: &[f32], sinks: Option<&[f32]>| {
            let params = AttentionParams { scale: 0.1, window: None, sinks };
            let mut out = vec![0.0; n * 64];
            let kv = KeysValues { keys, values: Some(&values) };
            attend(&pool(2, *isa), heads, params, &queries, kv, SPAN_TOKENS, &mut out);
            out
        };
        // Rows that see only the first token of the second span have its value.
        let out = attend(&keys, None);
        for row in out.chunks_exact(32).take(2 * (SPAN_TOKENS - 1)) {
            assert_eq!(bits(row), bits(&values[SPAN_TOKENS * 32..][..32]), "{isa}");
        }
        assert!(out.iter().all(|value| value.is_finite()), "{isa}");
        // A sink alone leaves zeros.
        keys.fill(f32::NEG_INFINITY);
        assert_eq!(attend(&keys, Some(&[1.0, -2.0])), vec![0.0; n * 64], "{isa}");
        // Neither a sink nor a visible token: there is no result.
        assert!(attend(&keys, None).iter().all(|value| value.is_nan()), "{isa}");
        // A NaN score is not treated as masked.
        keys.fill(f32::NAN);
        assert!(attend(&keys, Some(&[1.0, -2.0])).iter().all(|value| value.is_nan()), "{isa}");
    }
}
