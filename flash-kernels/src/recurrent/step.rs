//! State updates of one head by one token.

/// Accumulators of a sum.
const LANES: usize = 16;

/// Type of [`selective_step`], compiled for an instruction set.
pub(crate) type SelectiveStep =
    fn(decay: f32, x: &[f32], b: &[f32], c: &[f32], state: &mut [f32], y: &mut [f32]);

/// Type of [`delta_step`], compiled for an instruction set.
pub(crate) type DeltaStep =
    fn(decay_beta: [f32; 2], q: &[f32], k: &[f32], v: &[f32], state: &mut [f32], y: &mut [f32]);

/// Updates a selective state space: `state = decay · state + x ⊗ b`, then `y = state · c`.
///
/// `state`: `[x.len(), b.len()]`.
#[inline(always)]
pub(crate) fn selective_step(decay: f32, x: &[f32], b: &[f32], c: &[f32], state: &mut [f32], y: &mut [f32]) {
    for ((row, x), y) in state.chunks_exact_mut(b.len()).zip(x).zip(y) {
        let mut sums = [0.0; LANES];
        let (rows, rest) = row.as_chunks_mut::<LANES>();
        let ((bs, b_rest), (cs, c_rest)) = (b.as_chunks::<LANES>(), c.as_chunks::<LANES>());
        for ((row, b), c) in rows.iter_mut().zip(bs).zip(cs) {
            for lane in 0..LANES {
                row[lane] = decay * row[lane] + x * b[lane];
                sums[lane] += row[lane] * c[lane];
            }
        }
        for (lane, ((value, b), c)) in rest.iter_mut().zip(b_rest).zip(c_rest).enumerate() {
            *value = decay * *value + x * b;
            sums[lane] += *value * c;
        }
        *y = total(sums);
    }
}

/// Applies the gated delta rule: `state = decay · state`, then `state += beta · (v − state · k) ⊗ k`, and
/// `y = state · q`.
///
/// `state`: `[v.len(), k.len()]`.
#[inline(always)]
pub(crate) fn delta_step(
    [decay, beta]: [f32; 2],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    state: &mut [f32],
    y: &mut [f32],
) {
    for ((row, v), y) in state.chunks_exact_mut(k.len()).zip(v).zip(y) {
        let mut sums = [0.0; LANES];
        let (rows, rest) = row.as_chunks_mut::<LANES>();
        let ((qs, q_rest), (ks, k_rest)) = (q.as_chunks::<LANES>(), k.as_chunks::<LANES>());
        for (row, k) in rows.iter_mut().zip(ks) {
            for lane in 0..LANES {
                row[lane] *= decay;
                sums[lane] += row[lane] * k[lane];
            }
        }
        for (lane, (value, k)) in rest.iter_mut().zip(k_rest).enumerate() {
            *value *= decay;
            sums[lane] += *value * k;
        }
        let delta = (v - total(sums)) * beta;
        let mut sums = [0.0; LANES];
        for ((row, k), q) in rows.iter_mut().zip(ks).zip(qs) {
            for lane in 0..LANES {
                row[lane] += k[lane] * delta;
                sums[lane] += row[lane] * q[lane];
            }
        }
        for (lane, ((value, k), q)) in rest.iter_mut().zip(k_rest).zip(q_rest).enumerate() {
            *value += k * delta;
            sums[lane] += *value * q;
        }
        *y = total(sums);
    }
}

/// Adds pairwise: a chain of additions would take longer than the products.
#[inline(always)]
fn total(mut sums: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}
