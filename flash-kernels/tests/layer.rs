//! Properties of attention, normalisation, gates and rotary embedding.

mod common;

use std::num::NonZeroUsize;

use common::{Random, bits, pool};
use flash_kernels::{
    Attention, AttentionParams, FloatType, Floats, Gate, Heads, Isa, KeysValues, Pool, Rope, attend, gated,
    gated_pairs, rms_norm,
};
use proptest::prelude::*;

/// Naive attention in f64: for each element the weighted sum, and the weighted sum of magnitudes.
fn reference(
    heads: Heads,
    params: AttentionParams<'_>,
    queries: &[f32],
    kv: KeysValues<'_>,
    position: usize,
) -> Vec<(f64, f64)> {
    let Heads { query_heads, kv_heads, head_dim, .. } = heads;
    let capacity = kv.keys.len() / (kv_heads * head_dim);
    let mut out = Vec::new();
    for (row, query) in queries.chunks_exact(head_dim).enumerate() {
        let (token, head) = (position + row / query_heads, row % query_heads);
        let kv_head = head / (query_heads / kv_heads);
        let of = |all: &[f32], token: usize| -> Vec<f64> {
            let start = (kv_head * capacity + token) * head_dim;
            all[start..start + head_dim].iter().map(|value| f64::from(*value)).collect()
        };
        let score = |t| of(kv.keys, t).iter().zip(query).map(|(k, q)| k * f64::from(*q)).sum::<f64>();
        let weights: Vec<f64> = (0..=token).map(|t| (score(t) * f64::from(params.scale)).exp()).collect();
        let sink = params.sinks.map_or(0.0, |sinks| f64::from(sinks[head]).exp());
        let sum = weights.iter().sum::<f64>() + sink;
        for column in 0..head_dim {
            let parts = weights.iter().enumerate().map(|(t, w)| w / sum * of(kv.values.unwrap(), t)[column]);
            out.push(parts.fold((0.0, 0.0), |(sum, size), part| (sum + part, size + part.abs())));
        }
    }
    out
}

const GATES: [Gate; 4] =
    [Gate::Silu, Gate::GeluTanh, Gate::Sigmoid, Gate::ClampedSilu { alpha: 1.702, limit: 0.75 }];

fn params(scale: f32) -> AttentionParams<'static> {
    AttentionParams { scale, window: None, sinks: None }
}

#[derive(Debug, Clone, Copy)]
struct Case {
    heads: Heads,
    position: usize,
    n: usize,
    has_sinks: bool,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let head_dim = prop::sample::select(vec![2_usize, 16, 32, 40, 64, 80, 128]);
    (1_usize..4, 1_usize..5, head_dim, 0_usize..600, 1_usize..20, any::<(bool, u64)>()).prop_map(
        |(kv_heads, group, head_dim, position, n, (has_sinks, seed))| {
            let heads = Heads::new(kv_heads * group, kv_heads, head_dim);
            Case { heads, position, n, has_sinks, seed }
        },
    )
}

struct Inputs {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    sinks: Option<Vec<f32>>,
}

impl Inputs {
    fn params(&self, scale: f32) -> AttentionParams<'_> {
        AttentionParams { sinks: self.sinks.as_deref(), ..params(scale) }
    }
}

impl Case {
    fn make(self) -> Inputs {
        let Heads { query_heads, kv_heads, head_dim, .. } = self.heads;
        let mut random = Random(self.seed);
        let capacity = self.position + self.n + 3;
        let mut keys = random.vec(kv_heads * capacity * head_dim);
        let values = random.vec(kv_heads * capacity * head_dim);
        // Rows beyond the tokens must not matter.
        for head in keys.chunks_exact_mut(capacity * head_dim) {
            head[(self.position + self.n) * head_dim..].fill(f32::NAN);
        }
        let queries = random.vec(self.n * query_heads * head_dim);
        // Sinks that take almost nothing, and sinks that take almost everything.
        let sinks = || random.vec(query_heads).iter().map(|sink| 4.0 * sink).collect();
        Inputs { queries, keys, values, sinks: self.has_sinks.then(sinks) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn attention_is_that_of_the_formula(case in case(), n_threads in 1_usize..4) {
        let inputs = case.make();
        let Inputs { queries, keys, values, .. } = &inputs;
        let kv = KeysValues { keys, values: Some(values) };
        let params = inputs.params((case.heads.head_dim as f32).powf(-0.5));
        let wanted = reference(case.heads, params, queries, kv, case.position);
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; queries.len()];
            attend(&pool(n_threads, *isa), case.heads, params, queries, kv, case.position, &mut out);
            for (out, (wanted, size)) in out.iter().zip(&wanted) {
                let error = (f64::from(*out) - wanted).abs() / size;
                prop_assert!(error < 2f64.powi(-18), "{isa}: {out} for {wanted}, error {error}");
            }
        }
    }

    #[test]
    fn a_row_attends_with_the_same_bits_alone_and_among_others(case in case(), n_threads in 1_usize..4) {
        let inputs = case.make();
        let Inputs { queries, keys, values, .. } = &inputs;
        let (kv, params) = (KeysValues { keys, values: Some(values) }, inputs.params(0.3));
        let row_len = case.heads.query_heads * case.heads.head_dim;
        for isa in Isa::available() {
            let mut together = vec![f32::NAN; queries.len()];
            attend(&pool(n_threads, *isa), case.heads, params, queries, kv, case.position, &mut together);
            let single = pool(1, *isa);
            for (row, query) in queries.chunks_exact(row_len).enumerate() {
                let mut alone = vec![f32::NAN; row_len];
                attend(&single, case.heads, params, query, kv, case.position + row, &mut alone);
                prop_assert_eq!(bits(&alone), bits(&together[row * row_len..][..row_len]), "{} {}", isa, row);
            }
        }
    }

    #[test]
    fn norms_and_gates_have_the_same_bits_for_every_instruction_set_and_batch(
        n_rows in 0_usize..70,
        n in 1_usize..700,
        seed in any::<u64>(),
    ) {
        let (x, up) = (Random(seed).vec(n_rows * n), Random(seed ^ 1).vec(n_rows * n));
        let mut weight = vec![0; 2 * n];
        FloatType::BF16.encode_into(&Random(seed ^ 2).vec(n), &mut weight).unwrap();
        let weight = Floats { float: FloatType::BF16, bytes: &weight };
        let mut wanted = [(); 4].map(|()| vec![0.0; x.len()]);
        let single = pool(1, Isa::Portable);
        for row in (0..n_rows).map(|row| row * n..(row + 1) * n) {
            rms_norm(&single, &x[row.clone()], weight, 1e-5, &mut wanted[0][row.clone()]);
            for (kind, wanted) in GATES.into_iter().zip(&mut wanted[1..]) {
                gated(&single, kind, &x[row.clone()], &up[row.clone()], &mut wanted[row.clone()]);
            }
        }
        for isa in Isa::available() {
            let pool = pool(3, *isa);
            let mut out = vec![0.0; x.len()];
            rms_norm(&pool, &x, weight, 1e-5, &mut out);
            prop_assert_eq!(bits(&out), bits(&wanted[0]), "{}", isa);
            let pairs: Vec<f32> = x.iter().zip(&up).flat_map(|(gate, up)| [*gate, *up]).collect();
            for (kind, wanted) in GATES.into_iter().zip(&wanted[1..]) {
                gated(&pool, kind, &x, &up, &mut out);
                prop_assert_eq!(bits(&out), bits(wanted), "{} {:?}", isa, kind);
                out.fill(f32::NAN);
                gated_pairs(&pool, kind, &pairs, &mut out);
                prop_assert_eq!(bits(&out), bits(wanted), "pairs, {} {:?}", isa, kind);
            }
        }
    }
}

#[test]
fn a_long_prefill_equals_its_tokens_one_by_one() {
    // More rows than a block, more tokens than a span, and a group that does not divide the block.
    let heads = Heads::new(9, 3, 64);
    let inputs = Case { heads, position: 0, n: 330, has_sinks: true, seed: 7 }.make();
    let Inputs { queries, keys, values, .. } = &inputs;
    let (kv, params) = (KeysValues { keys, values: Some(values) }, inputs.params(0.125));
    let pool = pool(2, *Isa::available().last().unwrap());
    let mut together = vec![f32::NAN; queries.len()];
    attend(&pool, heads, params, queries, kv, 0, &mut together);
    for (position, (query, together)) in
        queries.chunks_exact(9 * 64).zip(together.chunks_exact(9 * 64)).enumerate()
    {
        let mut alone = vec![f32::NAN; 9 * 64];
        attend(&pool, heads, params, query, kv, position, &mut alone);
        assert_eq!(bits(&alone), bits(together), "{position}");
    }
}

#[test]
fn norms_and_gates_are_those_of_the_formulas() {
    let (x, up) = (Random(3).vec(3 * 100), Random(4).vec(3 * 100));
    let weight: Vec<u8> = Random(5).vec(100).iter().flat_map(|value| value.to_le_bytes()).collect();
    let weights: Vec<f32> = weight.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    for isa in Isa::available() {
        let pool = pool(2, *isa);
        let mut out = vec![0.0; 300];
        rms_norm(&pool, &x, Floats { float: FloatType::F32, bytes: &weight }, 1e-5, &mut out);
        for (x, out) in x.chunks_exact(100).zip(out.chunks_exact(100)) {
            let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 100.0;
            for ((x, weight), out) in x.iter().zip(&weights).zip(out) {
                let wanted = f64::from(*x) * f64::from(*weight) / (mean + f64::from(1e-5_f32)).sqrt();
                assert!((f64::from(*out) - wanted).abs() <= 4e-7 * wanted.abs(), "{isa}: {out} for {wanted}");
            }
        }
        gated(&pool, Gate::Silu, &x, &up, &mut out);
        for ((x, up), out) in x.iter().zip(&up).zip(&out) {
            let wanted = f64::from(*x) / (1.0 + f64::from(-x).exp()) * f64::from(*up);
            assert!((f64::from(*out) - wanted).abs() <= 6e-7 * wanted.abs(), "{isa}: {out} for {wanted}");
        }
        gated(&pool, Gate::Sigmoid, &x, &up, &mut out);
        for ((x, up), out) in x.iter().zip(&up).zip(&out) {
            let wanted = f64::from(*up) / (1.0 + f64::from(-x).exp());
            assert!((f64::from(*out) - wanted).abs() <= 6e-7 * wanted.abs(), "{isa}: {out} for {wanted}");
        }
        gated(&pool, Gate::GeluTanh, &x, &up, &mut out);
        for ((x, up), out) in x.iter().zip(&up).zip(&out) {
            let x = f64::from(*x);
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            let wanted = 0.5 * x * (1.0 + inner.tanh()) * f64::from(*up);
            assert!((f64::from(*out) - wanted).abs() <= 1e-6 * wanted.abs(), "{isa}: {out} for {wanted}");
        }
        // Some values exceed the limit on either side.
        gated(&pool, GATES[3], &x, &up, &mut out);
        for ((x, up), out) in x.iter().zip(&up).zip(&out) {
            let (x, up) = (f64::from(*x).min(0.75), f64::from(*up).clamp(-0.75, 0.75));
            let wanted = (up + 1.0) * (x / (1.0 + (-f64::from(1.702_f32) * x).exp()));
            assert!((f64::from(*out) - wanted).abs() <= 1e-6 * wanted.abs(), "{isa}: {out} for {wanted}");
        }
    }
}

#[test]
fn gates_far_from_zero_open_and_close() {
    let pool = pool(1, *Isa::available().last().unwrap());
    let gate = [200.0, -200.0, f32::INFINITY, f32::NAN];
    let mut out = [0.0; 4];
    for kind in &GATES[..2] {
        gated(&pool, *kind, &gate, &[2.0; 4], &mut out);
        assert_eq!(out[..3], [400.0, 0.0, f32::INFINITY]);
        assert!(out[3].is_nan());
    }
    let kind = Gate::ClampedSilu { alpha: 1.0, limit: 50.0 };
    gated(&pool, kind, &gate, &[2.0, 2.0, f32::INFINITY, 2.0], &mut out);
    assert_eq!(out[..3], [150.0, 0.0, 50.0 * 51.0]);
    assert!(out[3].is_nan());
    gated(&pool, kind, &[1.0; 4], &[f32::NAN, f32::NEG_INFINITY, -1.0, -60.0], &mut out);
    assert!(out[0].is_nan() && out[1] == out[3] && out[1] < -35.0 && out[2] == 0.0, "{out:?}");
}

#[test]
fn sinks_take_their_part_of_each_head_once_however_large_they_are() {
    let heads = Heads::new(4, 2, 2);
    // Equal keys share the rest of the softmax equally: 300 tokens, three spans.
    let (keys, values) = (vec![0.0; 2 * 300 * 2], vec![1.0; 2 * 300 * 2]);
    let kv = KeysValues { keys: &keys, values: Some(&values) };
    let sinks = [f32::NEG_INFINITY, 0.0, 300_f32.ln(), 200.0];
    let wanted = [1.0, 300.0 / 301.0, 0.5, 0.0];
    for isa in Isa::available() {
        let (pool, params) = (pool(2, *isa), AttentionParams { sinks: Some(&sinks), ..params(1.0) });
        let mut out = [f32::NAN; 8];
        attend(&pool, heads, params, &[1.0; 8], kv, 299, &mut out);
        for (out, wanted) in out.as_chunks::<2>().0.iter().zip(wanted) {
            assert!(out.iter().all(|value| (value - wanted).abs() < 1e-6), "{isa}: {out:?} for {wanted}");
        }
        let nan = [f32::NAN, 0.0, 0.0, 0.0];
        attend(&pool, heads, AttentionParams { sinks: Some(&nan), ..params }, &[1.0; 8], kv, 299, &mut out);
        assert!(
            out[..2].iter().all(|value| value.is_nan()) && out[2..].iter().all(|value| value.is_finite())
        );
        // Rows that see nothing, after a skipped span.
        Attention::new(&pool, heads, params, &[1.0; 8], 299).finish(&mut out);
        assert!(out[0].is_nan() && out[2..] == [0.0; 6], "{isa}: {out:?}");
    }
}

#[test]
fn nan_reaches_the_rows_that_see_it() {
    let heads = Heads::new(2, 1, 32);
    let case = Case { heads, position: 0, n: 300, has_sinks: false, seed: 1 };
    let Inputs { queries, mut keys, values, .. } = case.make();
    keys[270 * 32] = f32::NAN;
    for isa in Isa::available() {
        let mut out = vec![0.0; queries.len()];
        let kv = KeysValues { keys: &keys, values: Some(&values) };
        attend(&pool(2, *isa), heads, params(1.0), &queries, kv, 0, &mut out);
        let (before, after) = out.split_at(270 * 64);
        assert!(before.iter().all(|value| value.is_finite()), "{isa}");
        assert!(after.iter().all(|value| value.is_nan()), "{isa}");
    }
}

#[test]
fn rope_rotates_pairs_by_their_angle_and_makes_them_larger() {
    let x: Vec<f32> = (1..=12).map(|i| i as f32).collect();
    let frequencies = vec![1.0, 0.25];
    for traditional in [false, true] {
        let inverse_frequencies = frequencies.clone();
        let rope = Rope { inverse_frequencies, scale: 0.5, magnitude: 2.0, traditional };
        let mut out = vec![0.0; 12];
        rope.rotate(6, 6, &x, &mut out);
        for head in [0, 6] {
            let pairs = if traditional { [(0, 1), (2, 3)] } else { [(0, 2), (1, 3)] };
            for ((a, b), frequency) in pairs.into_iter().zip(&frequencies) {
                let (sin, cos) = (3.0 * frequency).sin_cos();
                let (sin, cos) = (2.0 * sin, 2.0 * cos);
                let (a, b) = (head + a, head + b);
                assert_eq!([out[a], out[b]], [x[a] * cos - x[b] * sin, x[a] * sin + x[b] * cos]);
            }
            // The last two numbers of each head are not rotated.
            assert_eq!(out[head + 4..head + 6], x[head + 4..head + 6]);
        }
    }
}

#[test]
fn rope_rotates_tokens_as_each_alone() {
    let (heads, head_dim, n) = (3, 6, 29);
    let x: Vec<f32> = (0..n * heads * head_dim).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
    let inverse_frequencies = vec![1.0, 0.25];
    let rope = Rope { inverse_frequencies, scale: 1.0, magnitude: 1.0, traditional: false };
    // Tokens of two contexts.
    let positions: Vec<usize> = (7..7 + n / 2).chain(0..n - n / 2).collect();
    let mut each = vec![0.0; x.len()];
    let tokens = x.chunks_exact(heads * head_dim).zip(each.chunks_exact_mut(heads * head_dim));
    for (position, (x, out)) in positions.iter().zip(tokens) {
        rope.rotate(*position, head_dim, x, out);
    }
    for n_threads in [1, 2, 3] {
        let pool = Pool::with_isa(NonZeroUsize::new(n_threads).unwrap(), Isa::best()).unwrap();
        let mut all = vec![0.0; x.len()];
        rope.rotate_tokens(&pool, &positions, [heads, head_dim], &x, &mut all);
        assert_eq!(all, each);
    }
}
