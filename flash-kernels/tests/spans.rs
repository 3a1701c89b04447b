//! Properties of attention over pages.

mod common;

use common::{Random, bits, pool};
use flash_kernels::{
    Attention, AttentionParams, Heads, Isa, KeysValues, KvCodes, KvRows, SPAN_TOKENS, Span, attend,
};
use half::f16;
use proptest::prelude::*;

/// Columns per scale.
const GROUP: usize = 64;

#[derive(Debug, Clone, Copy)]
enum Format {
    F32,
    F16,
    Affine8,
    Affine4,
}

impl Format {
    /// Bytes per row of codes.
    fn row_bytes(self, head_dim: usize) -> usize {
        if matches!(self, Self::Affine4) { head_dim.div_ceil(2) } else { head_dim }
    }
}

/// Keys or values of one page, `[kv_heads, SPAN_TOKENS, head_dim]`, in every format.
#[derive(Debug)]
struct Stored {
    format: Format,
    f32s: Vec<f32>,
    f16s: Vec<f16>,
    codes: Vec<u8>,
    scales: Vec<f32>,
    biases: Vec<f32>,
}

impl Stored {
    fn random(format: Format, heads: Heads, random: &mut Random) -> Self {
        let Heads { kv_heads, head_dim, .. } = heads;
        let n_groups = kv_heads * SPAN_TOKENS * head_dim.div_ceil(GROUP);
        let numbers = random.vec(kv_heads * SPAN_TOKENS * head_dim);
        let code = |number: &f32| (number.to_bits() >> 8) as u8;
        Self {
            format,
            f16s: numbers.iter().map(|number| f16::from_f32(*number)).collect(),
            codes: numbers
                .iter()
                .map(code)
                .take(kv_heads * SPAN_TOKENS * format.row_bytes(head_dim))
                .collect(),
            scales: random.vec(n_groups).iter().map(|number| number * 0.01).collect(),
            biases: random.vec(n_groups),
            f32s: numbers,
        }
    }

    fn numbers(&self) -> KvRows<'_> {
        let Self { codes, scales, biases, .. } = self;
        let codes = KvCodes { codes, scales, biases, group: GROUP };
        match self.format {
            Format::F32 => KvRows::F32(&self.f32s),
            Format::F16 => KvRows::F16(&self.f16s),
            Format::Affine8 => KvRows::Affine8(codes),
            Format::Affine4 => KvRows::Affine4(codes),
        }
    }

    /// The decoded values.
    fn decoded(&self, heads: Heads) -> Vec<f32> {
        let Heads { kv_heads, head_dim, .. } = heads;
        let number = |idx: usize| {
            let group = idx / head_dim * head_dim.div_ceil(GROUP) + idx % head_dim / GROUP;
            let coded = |code: u8| self.scales[group] * f32::from(code) + self.biases[group];
            match self.format {
                Format::F32 => self.f32s[idx],
                Format::F16 => self.f16s[idx].to_f32(),
                Format::Affine8 => coded(self.codes[idx]),
                Format::Affine4 => {
                    let (row, column) = (idx / head_dim, idx % head_dim);
                    let pair = self.codes[row * self.format.row_bytes(head_dim) + column / 2];
                    coded(pair >> (column % 2 * 4) & 15)
                }
            }
        };
        (0..kv_heads * SPAN_TOKENS * head_dim).map(number).collect()
    }
}

#[derive(Debug, Clone)]
struct Case {
    heads: Heads,
    params: AttentionParams<'static>,
    has_sinks: bool,
    formats: Vec<Format>,
    /// Tokens in the last page.
    last_tokens: usize,
    n: usize,
    seed: u64,
}

impl Case {
    fn position(&self) -> usize {
        (self.formats.len() - 1) * SPAN_TOKENS + self.last_tokens - self.n
    }

    fn pages(&self) -> Vec<[Stored; 2]> {
        let mut random = Random(self.seed);
        let page = |format: &Format| [(); 2].map(|()| Stored::random(*format, self.heads, &mut random));
        self.formats.iter().map(page).collect()
    }

    fn sinks(&self) -> Vec<f32> {
        Random(self.seed ^ 5).vec(self.heads.query_heads)
    }

    fn params<'a>(&self, sinks: &'a [f32]) -> AttentionParams<'a> {
        AttentionParams { sinks: self.has_sinks.then_some(sinks), ..self.params }
    }

    fn queries(&self) -> Vec<f32> {
        Random(!self.seed).vec(self.n * self.heads.query_heads * self.heads.head_dim)
    }
}

fn case() -> impl Strategy<Value = Case> {
    let formats = vec![Format::F32, Format::F16, Format::Affine8, Format::Affine8, Format::Affine4];
    let head_dim = prop::sample::select(vec![2_usize, 16, 33, 64, 65, 80, 96, 127, 128]);
    (
        (1_usize..4, 1_usize..5, head_dim, prop::option::of(1_usize..400)),
        prop::collection::vec(prop::sample::select(formats), 1..5),
        1..=SPAN_TOKENS,
        1_usize..140,
        any::<(bool, u64)>(),
    )
        .prop_map(|((kv_heads, group, head_dim, window), formats, last_tokens, n, (has_sinks, seed))| {
            let heads = Heads::new(kv_heads * group, kv_heads, head_dim);
            let n = n.min((formats.len() - 1) * SPAN_TOKENS + last_tokens);
            let params = AttentionParams { scale: 0.2, window, sinks: None };
            Case { heads, params, has_sinks, formats, last_tokens, n, seed }
        })
}

fn spans(pages: &[[Stored; 2]], last_tokens: usize) -> Vec<Span<'_>> {
    let n_tokens = |idx| if idx + 1 == pages.len() { last_tokens } else { SPAN_TOKENS };
    let pages = pages.iter().enumerate().map(|(idx, [keys, values])| Span {
        start: idx * SPAN_TOKENS,
        n_tokens: n_tokens(idx),
        head_tokens: SPAN_TOKENS,
        keys: keys.numbers(),
        values: Some(values.numbers()),
    });
    pages.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn pages_of_any_format_attend_as_their_numbers_in_one_piece(case in case(), n_threads in 1_usize..4) {
        let (pages, queries) = (case.pages(), case.queries());
        let Heads { kv_heads, head_dim, .. } = case.heads;
        // `[kv_heads, tokens, head_dim]`: the pages concatenated.
        let whole = |half: usize| -> Vec<f32> {
            let decoded: Vec<_> = pages.iter().map(|page| page[half].decoded(case.heads)).collect();
            let head_len = SPAN_TOKENS * head_dim;
            let head = |head: usize| decoded.iter().flat_map(move |page| &page[head * head_len..][..head_len]);
            (0..kv_heads).flat_map(head).copied().collect()
        };
        let (keys, values, sinks) = (whole(0), whole(1), case.sinks());
        let params = case.params(&sinks);
        let kv = KeysValues { keys: &keys, values: Some(&values) };
        let spans = spans(&pages, case.last_tokens);
        for isa in Isa::available() {
            let mut wanted = vec![0.0; queries.len()];
            attend(&pool(1, *isa), case.heads, params, &queries, kv, case.position(), &mut wanted);
            let pool = pool(n_threads, *isa);
            for at_once in [1, 2, spans.len()] {
                let mut attention = Attention::new(&pool, case.heads, params, &queries, case.position());
                spans.chunks(at_once).for_each(|spans| attention.add(spans));
                let mut out = vec![f32::NAN; queries.len()];
                attention.finish(&mut out);
                prop_assert_eq!(bits(&out), bits(&wanted), "{} {}", isa, at_once);
            }
        }
    }

    #[test]
    fn a_window_sees_the_same_bits_without_the_pages_before_it(case in case()) {
        let Some(window) = case.params.window else { return Ok(()) };
        let (pages, queries, sinks) = (case.pages(), case.queries(), case.sinks());
        let params = case.params(&sinks);
        let all = spans(&pages, case.last_tokens);
        let row_len = case.heads.query_heads * case.heads.head_dim;
        let pool = pool(2, *Isa::available().last().unwrap());
        let mut together = vec![0.0; queries.len()];
        let mut attention = Attention::new(&pool, case.heads, params, &queries, case.position());
        attention.add(&all);
        attention.finish(&mut together);
        for (row, query) in queries.chunks_exact(row_len).enumerate() {
            let position = case.position() + row;
            let first = (position + 1).saturating_sub(window);
            let seen: Vec<_> = all.iter().filter(|span| span.start + span.n_tokens > first).copied().collect();
            let mut alone = vec![0.0; row_len];
            let mut attention = Attention::new(&pool, case.heads, params, query, position);
            attention.add(&seen);
            attention.finish(&mut alone);
            prop_assert_eq!(bits(&alone), bits(&together[row * row_len..][..row_len]), "row {}", row);
        }
    }

    #[test]
    fn values_in_keys_are_mixed_as_the_same_numbers_beside_them(case in case(), part in 0.0_f64..1.0) {
        let head_dim = case.heads.head_dim;
        let value_dim = 1 + ((head_dim - 1) as f64 * part) as usize;
        let heads = Heads { value_dim, ..case.heads };
        let (pages, queries) = (case.pages(), case.queries());
        let beside: Vec<_> = spans(&pages, case.last_tokens)
            .into_iter()
            .map(|span| Span { values: Some(span.keys), ..span })
            .collect();
        let inside: Vec<_> = beside.iter().map(|span| Span { values: None, ..*span }).collect();
        let attend = |heads: Heads, spans: &[Span<'_>]| {
            let pool = pool(2, *Isa::available().last().unwrap());
            let mut out = vec![f32::NAN; queries.len() / head_dim * heads.value_dim];
            let mut attention = Attention::new(&pool, heads, case.params, &queries, case.position());
            attention.add(spans);
            attention.finish(&mut out);
            out
        };
        let whole = attend(case.heads, &beside);
        let last = whole.chunks_exact(head_dim).flat_map(|row| &row[head_dim - value_dim..]);
        prop_assert_eq!(bits(&attend(heads, &inside)), bits(&last.copied().collect::<Vec<_>>()));
    }
}

#[test]
fn a_window_sees_its_own_token_and_those_before_it() {
    let heads = Heads::new(1, 1, 2);
    let keys: Vec<f32> = (0..300).flat_map(|t| [(t as f32 * 0.7).sin(), 1.0]).collect();
    let values: Vec<f32> = (0..300).flat_map(|t| [t as f32, 1.0]).collect();
    let params = AttentionParams { scale: 1.0, window: Some(5), sinks: None };
    let queries = [1.0, 0.0].repeat(300);
    let mut out = vec![0.0; 600];
    let kv = KeysValues { keys: &keys, values: Some(&values) };
    attend(&pool(2, Isa::Portable), heads, params, &queries, kv, 0, &mut out);
    for (token, out) in out.chunks_exact(2).enumerate() {
        let seen = token.saturating_sub(4)..=token;
        let weights: Vec<f64> = seen.clone().map(|t| f64::from(keys[2 * t]).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let wanted: f64 = seen.zip(&weights).map(|(t, weight)| t as f64 * weight / sum).sum();
        assert!((f64::from(out[0]) - wanted).abs() < 1e-3, "token {token}: {} for {wanted}", out[0]);
        assert!((out[1] - 1.0).abs() < 1e-6);
    }
}

#[test]
fn rows_of_four_bits_begin_at_bytes_also_if_heads_are_odd() {
    for head_dim in [1, 3, 65, 127] {
        let heads = Heads::new(2, 2, head_dim);
        let stored = Stored::random(Format::Affine4, heads, &mut Random(7));
        let decoded = stored.decoded(heads);
        let span = |numbers| Span {
            start: 0,
            n_tokens: SPAN_TOKENS,
            head_tokens: SPAN_TOKENS,
            keys: numbers,
            values: Some(numbers),
        };
        let queries = Random(8).vec(2 * head_dim);
        for isa in Isa::available() {
            let pool = pool(1, *isa);
            let attend = |numbers| {
                let params = AttentionParams { scale: 0.2, window: None, sinks: None };
                let mut attention = Attention::new(&pool, heads, params, &queries, SPAN_TOKENS - 1);
                attention.add(&[span(numbers)]);
                let mut out = vec![0.0; queries.len()];
                attention.finish(&mut out);
                out
            };
            let wanted = attend(KvRows::F32(&decoded));
            assert_eq!(bits(&attend(stored.numbers())), bits(&wanted), "{head_dim} {isa}");
        }
    }
}

#[test]
#[should_panic(expected = "rows of 3 numbers, 128 wanted")]
fn odd_rows_of_four_bits_that_are_too_short_are_a_bug_of_the_caller() {
    let heads = Heads::new(1, 1, 3);
    let (codes, terms) = ([0; SPAN_TOKENS * 3 / 2], [0.0; SPAN_TOKENS]);
    let codes = KvCodes { codes: &codes, scales: &terms, biases: &terms, group: GROUP };
    let keys = KvRows::Affine4(codes);
    let span = Span { start: 0, n_tokens: SPAN_TOKENS, head_tokens: SPAN_TOKENS, keys, values: Some(keys) };
    let pool = pool(1, Isa::Portable);
    let params = AttentionParams { scale: 1.0, window: None, sinks: None };
    Attention::new(&pool, heads, params, &[0.0; 3], 0).add(&[span]);
}

#[test]
#[should_panic(expected = "a span at 0 behind 128")]
fn spans_out_of_order_are_a_bug_of_the_caller() {
    let heads = Heads::new(1, 1, 2);
    let numbers = KvRows::F32(&[0.0; 2 * SPAN_TOKENS]);
    let span = Span {
        start: 0,
        n_tokens: SPAN_TOKENS,
        head_tokens: SPAN_TOKENS,
        keys: numbers,
        values: Some(numbers),
    };
    let pool = pool(1, Isa::Portable);
    let params = AttentionParams { scale: 1.0, window: None, sinks: None };
    let mut attention = Attention::new(&pool, heads, params, &[0.0; 2], 200);
    attention.add(&[span, span]);
}

#[test]
fn many_threads_give_the_bits_of_one() {
    let grouped = Heads::new(40, 2, 48);
    let latent = Heads { value_dim: 64, ..Heads::new(36, 1, 72) };
    for (heads, window) in [(grouped, None), (grouped, Some(150)), (latent, None)] {
        let formats = [Format::F32, Format::Affine8, Format::Affine4, Format::F16, Format::F32, Format::F16];
        let mut random = Random(11);
        let pages: Vec<_> =
            formats.map(|format| [(); 2].map(|()| Stored::random(format, heads, &mut random))).into();
        let mut spans = spans(&pages, 70);
        if heads.value_dim < heads.head_dim {
            spans.iter_mut().for_each(|span| span.values = None);
        }
        let sinks = random.vec(heads.query_heads);
        for n in [1, 3, 100] {
            let queries = random.vec(n * heads.query_heads * heads.head_dim);
            let params = AttentionParams { scale: 0.2, window, sinks: Some(&sinks) };
            let attend = |n_threads: usize, at_once: usize| {
                let pool = pool(n_threads, *Isa::available().last().unwrap());
                let position = (pages.len() - 1) * SPAN_TOKENS + 70 - n;
                let mut attention = Attention::new(&pool, heads, params, &queries, position);
                spans.chunks(at_once).for_each(|spans| attention.add(spans));
                let mut out = vec![f32::NAN; n * heads.query_heads * heads.value_dim];
                attention.finish(&mut out);
                bits(&out)
            };
            let alone = attend(1, spans.len());
            for (n_threads, at_once) in [(7, 4), (64, 4), (64, 6), (200, 1)] {
                assert_eq!(attend(n_threads, at_once), alone, "{n} tokens, {n_threads} threads");
            }
        }
    }
}
