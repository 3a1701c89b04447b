//! Properties of recurrent layers.

mod common;

use common::{Random, bits, pool};
use flash_kernels::{FloatType, Floats, GatedDelta, GatedDeltaInput, Isa, Mamba2, Pool, StateUpdate};
use proptest::prelude::*;

/// Stored numbers and their values.
#[derive(Debug)]
struct Stored {
    float: FloatType,
    bytes: Vec<u8>,
    values: Vec<f32>,
}

impl Stored {
    fn new(values: Vec<f32>, float: FloatType) -> Self {
        let mut bytes = vec![0; values.len() * float.size_bytes()];
        float.encode_into(&values, &mut bytes).unwrap();
        let values = values.into_iter().map(|value| float.round(value)).collect();
        Self { float, bytes, values }
    }

    fn get(&self) -> Floats<'_> {
        Floats { float: self.float, bytes: &self.bytes }
    }
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn softplus(x: f64) -> f64 {
    x.exp().ln_1p()
}

fn rms(x: &[f64], eps: f64) -> f64 {
    (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + eps).sqrt()
}

/// Naive convolution of rows of channels after a window of zeros.
fn convolved(rows: &[Vec<f64>], weights: &[f32], bias: Option<&[f32]>, kernel: usize) -> Vec<Vec<f64>> {
    let of_row = |token: usize| {
        let channel = |channel: usize| {
            let seen = (0..kernel).filter(|place| token + place + 1 >= kernel);
            let products = seen.map(|place| {
                f64::from(weights[channel * kernel + place]) * rows[token + place + 1 - kernel][channel]
            });
            silu(products.sum::<f64>() + bias.map_or(0.0, |bias| f64::from(bias[channel])))
        };
        (0..rows[token].len()).map(channel).collect()
    };
    (0..rows.len()).map(of_row).collect()
}

fn widened(row: &[f32]) -> Vec<f64> {
    row.iter().map(|value| f64::from(*value)).collect()
}

/// A layer and its tokens.
trait Case {
    fn inner(&self) -> usize;
    fn state_len(&self) -> usize;
    /// Processes a range of the tokens.
    fn pass(&self, pool: &Pool, tokens: std::ops::Range<usize>, update: StateUpdate<'_>, out: &mut [f32]);
    fn wanted(&self) -> Vec<f64>;
    fn n(&self) -> usize;

    /// Processes all tokens in pieces, each from a copy of the state that the previous piece left, or in place.
    fn in_pieces(&self, pool: &Pool, lengths: &[usize], in_place: bool) -> (Vec<f32>, Vec<f32>) {
        let mut state = vec![0.0; self.state_len()];
        let mut out = vec![f32::NAN; self.n() * self.inner()];
        let (mut start, mut lengths) = (0, lengths.iter().cycle());
        while start < self.n() {
            let end = self.n().min(start + lengths.next().unwrap());
            let piece = &mut out[start * self.inner()..end * self.inner()];
            if in_place {
                self.pass(pool, start..end, StateUpdate { before: None, state: &mut state }, piece);
            } else {
                let mut next = vec![f32::NAN; state.len()];
                self.pass(pool, start..end, StateUpdate { before: Some(&state), state: &mut next }, piece);
                state = next;
            }
            start = end;
        }
        (out, state)
    }
}

#[derive(Debug)]
struct MambaCase {
    sizes: [usize; 5],
    n: usize,
    projected: Vec<f32>,
    weights: [Stored; 6],
    has_bias: bool,
    dt_limits: [f32; 2],
}

fn mamba() -> impl Strategy<Value = MambaCase> {
    let sizes =
        (1_usize..4, 1_usize..4, 1_usize..20, prop::sample::select(vec![1_usize, 5, 16, 32, 40]), 2_usize..5);
    let limits = prop_oneof![Just([0.0, f32::INFINITY]), Just([0.3, 0.9])];
    (sizes, 1_usize..40, any::<u64>(), any::<bool>(), limits).prop_map(
        |((groups, of_group, head_dim, state_dim, kernel), n, seed, has_bias, dt_limits)| {
            let mut random = Random(seed);
            let heads = groups * of_group;
            let (inner, channels) = (heads * head_dim, heads * head_dim + 2 * groups * state_dim);
            let float = common::FLOATS[seed as usize % 3];
            let weights = [channels * kernel, channels, heads, heads, heads, inner]
                .map(|len| Stored::new(random.vec(len), float));
            let projected = random.vec(n * (inner + channels + heads));
            MambaCase {
                sizes: [groups, heads, head_dim, state_dim, kernel],
                n,
                projected,
                weights,
                has_bias,
                dt_limits,
            }
        },
    )
}

impl MambaCase {
    fn layer(&self) -> Mamba2<'_> {
        let [n_groups, n_heads, head_dim, state_dim, kernel] = self.sizes;
        let [conv_weight, bias, dt_bias, a_log, d, norm] = self.weights.each_ref().map(Stored::get);
        let conv_bias = self.has_bias.then_some(bias);
        let dt_limits = self.dt_limits;
        Mamba2 {
            n_heads,
            head_dim,
            n_groups,
            state_dim,
            kernel,
            conv_weight,
            conv_bias,
            dt_bias,
            a_log,
            d,
            norm,
            eps: 1e-5,
            dt_limits,
        }
    }
}

impl Case for MambaCase {
    fn inner(&self) -> usize {
        self.sizes[1] * self.sizes[2]
    }

    fn n(&self) -> usize {
        self.n
    }

    fn state_len(&self) -> usize {
        self.layer().state_len()
    }

    fn pass(&self, pool: &Pool, tokens: std::ops::Range<usize>, update: StateUpdate<'_>, out: &mut [f32]) {
        let len = self.layer().projected_len();
        self.layer().run(pool, &self.projected[tokens.start * len..tokens.end * len], update, out);
    }

    fn wanted(&self) -> Vec<f64> {
        let [n_groups, n_heads, head_dim, state_dim, kernel] = self.sizes;
        let [conv, bias, dt_bias, a_log, d, norm] = self.weights.each_ref().map(|stored| &stored.values[..]);
        let (inner, layer) = (self.inner(), self.layer());
        let rows: Vec<Vec<f64>> = self.projected.chunks_exact(layer.projected_len()).map(widened).collect();
        let channels: Vec<_> = rows.iter().map(|row| row[inner..inner + layer.channels()].to_vec()).collect();
        let convolved = convolved(&channels, conv, self.has_bias.then_some(bias), kernel);
        let mut states = vec![0.0; inner * state_dim];
        let mut out = Vec::new();
        for (row, x) in rows.iter().zip(&convolved) {
            let mut y = vec![0.0; inner];
            for head in 0..n_heads {
                let group = head / (n_heads / n_groups);
                let dt = softplus(row[inner + layer.channels() + head] + f64::from(dt_bias[head]));
                let [least, most] = self.dt_limits.map(f64::from);
                let dt = dt.max(least).min(most);
                let decay = (-f64::from(a_log[head]).exp() * dt).exp();
                for p in head * head_dim..(head + 1) * head_dim {
                    for s in 0..state_dim {
                        let b = x[inner + group * state_dim + s];
                        let c = x[inner + (n_groups + group) * state_dim + s];
                        let state = &mut states[p * state_dim + s];
                        *state = decay * *state + dt * x[p] * b;
                        y[p] += *state * c;
                    }
                    y[p] += f64::from(d[head]) * x[p];
                }
            }
            let gated: Vec<f64> = y.iter().zip(row).map(|(y, gate)| y * silu(*gate)).collect();
            let group_len = inner / n_groups;
            for (group, norm) in gated.chunks_exact(group_len).zip(norm.chunks_exact(group_len)) {
                let rms = rms(group, f64::from(1e-5_f32));
                out.extend(group.iter().zip(norm).map(|(x, weight)| x / rms * f64::from(*weight)));
            }
        }
        out
    }
}

#[derive(Debug)]
struct DeltaCase {
    sizes: [usize; 5],
    n: usize,
    inputs: [Vec<f32>; 4],
    weights: [Stored; 4],
}

fn delta() -> impl Strategy<Value = DeltaCase> {
    let key_dim = prop::sample::select(vec![4_usize, 16, 24, 32]);
    let sizes = (1_usize..4, 1_usize..3, key_dim, 1_usize..20, 2_usize..5);
    (sizes, 1_usize..40, any::<u64>()).prop_map(
        |((key_heads, of_key, key_dim, value_dim, kernel), n, seed)| {
            let mut random = Random(seed);
            let heads = key_heads * of_key;
            let (inner, channels) = (heads * value_dim, heads * value_dim + 2 * key_heads * key_dim);
            let float = common::FLOATS[seed as usize % 3];
            let weights =
                [channels * kernel, heads, heads, value_dim].map(|len| Stored::new(random.vec(len), float));
            let inputs = [channels, inner, heads, heads].map(|len| random.vec(n * len));
            DeltaCase { sizes: [key_heads, heads, key_dim, value_dim, kernel], n, inputs, weights }
        },
    )
}

impl DeltaCase {
    fn layer(&self) -> GatedDelta<'_> {
        let [key_heads, value_heads, key_dim, value_dim, kernel] = self.sizes;
        let [conv_weight, dt_bias, a_log, norm] = self.weights.each_ref().map(Stored::get);
        GatedDelta {
            key_heads,
            value_heads,
            key_dim,
            value_dim,
            kernel,
            conv_weight,
            dt_bias,
            a_log,
            norm,
            eps: 1e-5,
        }
    }
}

impl Case for DeltaCase {
    fn inner(&self) -> usize {
        self.sizes[1] * self.sizes[3]
    }

    fn n(&self) -> usize {
        self.n
    }

    fn state_len(&self) -> usize {
        self.layer().state_len()
    }

    fn pass(&self, pool: &Pool, tokens: std::ops::Range<usize>, update: StateUpdate<'_>, out: &mut [f32]) {
        let piece = |input: &'_ Vec<f32>| {
            let len = input.len() / self.n;
            tokens.start * len..tokens.end * len
        };
        let [qkv, gate, beta, step] = self.inputs.each_ref().map(|input| &input[piece(input)]);
        self.layer().run(pool, GatedDeltaInput { qkv, gate, beta, step }, update, out);
    }

    fn wanted(&self) -> Vec<f64> {
        let [key_heads, heads, key_dim, value_dim, kernel] = self.sizes;
        let [conv, dt_bias, a_log, norm] = self.weights.each_ref().map(|stored| &stored.values[..]);
        let [qkv, gate, beta, step] = &self.inputs;
        let rows: Vec<Vec<f64>> = qkv.chunks_exact(self.layer().channels()).map(widened).collect();
        let convolved = convolved(&rows, conv, None, kernel);
        let mut states = vec![vec![vec![0.0; key_dim]; value_dim]; heads];
        let mut out = Vec::new();
        for (token, x) in convolved.iter().enumerate() {
            for head in 0..heads {
                let key_head = head / (heads / key_heads);
                let unit = |start: usize| -> Vec<f64> {
                    let x = &x[start + key_head * key_dim..][..key_dim];
                    let length = (x.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
                    x.iter().map(|x| x / length).collect()
                };
                let (q, k) = (unit(0), unit(key_heads * key_dim));
                let v = &x[2 * key_heads * key_dim + head * value_dim..][..value_dim];
                let of_head = token * heads + head;
                let dt = softplus(f64::from(step[of_head]) + f64::from(dt_bias[head]));
                let decay = (-f64::from(a_log[head]).exp() * dt).exp();
                let beta = 1.0 / (1.0 + (-f64::from(beta[of_head])).exp());
                let mut y = Vec::new();
                for (state, v) in states[head].iter_mut().zip(v) {
                    state.iter_mut().for_each(|state| *state *= decay);
                    let read: f64 = state.iter().zip(&k).map(|(state, k)| state * k).sum();
                    state.iter_mut().zip(&k).for_each(|(state, k)| *state += k * (v - read) * beta);
                    y.push(
                        state.iter().zip(&q).map(|(state, q)| state * q).sum::<f64>()
                            / (key_dim as f64).sqrt(),
                    );
                }
                let rms = rms(&y, f64::from(1e-5_f32));
                for ((y, weight), gate) in y.iter().zip(norm).zip(&gate[of_head * value_dim..]) {
                    out.push(y / rms * f64::from(*weight) * silu(f64::from(*gate)));
                }
            }
        }
        out
    }
}

fn is_that_of_the_formula(case: &impl Case) -> Result<(), TestCaseError> {
    let wanted = case.wanted();
    let greatest = wanted.iter().fold(1e-3_f64, |max, value| max.max(value.abs()));
    for isa in Isa::available() {
        let (out, _) = case.in_pieces(&pool(2, *isa), &[case.n()], false);
        for (out, wanted) in out.iter().zip(&wanted) {
            let error = (f64::from(*out) - wanted).abs() / greatest;
            prop_assert!(error < 1e-4, "{isa}: {out} for {wanted}, error {error}");
        }
    }
    Ok(())
}

fn has_the_same_bits_in_pieces(case: &impl Case, lengths: &[usize]) -> Result<(), TestCaseError> {
    let (together, state) = case.in_pieces(&pool(1, Isa::Portable), &[case.n()], false);
    for isa in Isa::available() {
        for (in_place, lengths) in [(false, lengths), (true, lengths), (true, &[1])] {
            let (out, left) = case.in_pieces(&pool(3, *isa), lengths, in_place);
            prop_assert_eq!(bits(&out), bits(&together), "{} {:?}", isa, lengths);
            prop_assert_eq!(bits(&left), bits(&state), "{} {:?}", isa, lengths);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn mamba2_is_that_of_the_formula(case in mamba()) {
        is_that_of_the_formula(&case)?;
    }

    #[test]
    fn gated_delta_is_that_of_the_formula(case in delta()) {
        is_that_of_the_formula(&case)?;
    }

    #[test]
    fn mamba2_has_the_same_bits_in_pieces_of_any_length(case in mamba(), lengths in prop::collection::vec(1_usize..9, 1..4)) {
        has_the_same_bits_in_pieces(&case, &lengths)?;
    }

    #[test]
    fn gated_delta_has_the_same_bits_in_pieces_of_any_length(
        case in delta(),
        lengths in prop::collection::vec(1_usize..9, 1..4),
    ) {
        has_the_same_bits_in_pieces(&case, &lengths)?;
    }
}

#[test]
fn many_threads_and_rows_give_the_bits_of_one() {
    // Enough numbers for several threads.
    let mut random = Random(5);
    let (heads, head_dim, groups, state_dim, kernel, n) = (8, 64, 2, 128, 4, 70);
    let (inner, channels) = (heads * head_dim, heads * head_dim + 2 * groups * state_dim);
    let weights = [channels * kernel, channels, heads, heads, heads, inner]
        .map(|len| Stored::new(random.vec(len), FloatType::BF16));
    let projected = random.vec(n * (inner + channels + heads));
    let sizes = [groups, heads, head_dim, state_dim, kernel];
    let case = MambaCase { sizes, n, projected, weights, has_bias: true, dt_limits: [0.0, f32::INFINITY] };
    has_the_same_bits_in_pieces(&case, &[n, 3]).unwrap();
}
