//! Experts, with MLX's operations.

use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, ops};

use super::{gated, gated_product, product, squared_relu_product};
use crate::compute::{ExpertMatrices, ExpertRows, Term};

/// Computes the output rows of each expert for its tokens, concatenated in the order of experts: `[rows, hidden]`.
pub(super) fn expert_rows(x: &Array, work: &[ExpertRows<'_>]) -> Result<Array, Exception> {
    let x = x.reshape(&[-1, x.dim(-1)])?;
    let rows = work.iter().map(|ExpertRows { expert, tokens }| {
        let ExpertMatrices { activation, gate, up, down } = *expert;
        let x = x.take_axis(Array::from_slice(tokens, &[tokens.len() as i32]), 0)?;
        let passed = match (activation, gate) {
            (Some(activation), Some(gate)) => gated_product(activation, &x, gate, up)?,
            (Some(activation), None) => {
                let pairs = product(&x, up)?.reshape(&[x.dim(0), -1, 2])?;
                gated(activation, &pairs.try_index((.., .., 0))?, &pairs.try_index((.., .., 1))?)?
            }
            (None, _) => squared_relu_product(&x, up)?,
        };
        product(&passed, down)
    });
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    ops::concatenate(&rows, 0)
}

/// Adds terms, in order, to `onto`, `[1, n, hidden]`: each is its row of `parts` times its weight.
pub(super) fn add_rows(onto: &Array, parts: &[Array], terms: &[Term]) -> Result<Array, Exception> {
    let (n, hidden) = (onto.dim(1), onto.dim(-1));
    // A row of zeros for tokens with fewer terms: their sums must not depend on other tokens.
    let mut rows = parts.to_vec();
    rows.push(ops::zeros::<f32>(&[1, hidden])?);
    let rows = ops::concatenate(&rows, 0)?;
    let none = rows.dim(0) - 1;
    let mut by_token = vec![Vec::new(); n as usize];
    for term in terms {
        by_token[term.token].push(term);
    }
    let n_terms = by_token.iter().map(Vec::len).max().unwrap_or(0);
    let mut sum = onto.clone();
    for nth in 0..n_terms {
        let terms = by_token.iter().map(|terms| terms.get(nth));
        let idx: Vec<i32> = terms.clone().map(|term| term.map_or(none, |term| term.row as i32)).collect();
        let weights: Vec<f32> = terms.map(|term| term.map_or(0.0, |term| term.weight)).collect();
        let picked = rows.take_axis(Array::from_slice(&idx, &[n]), 0)?;
        let weighted = picked.multiply(Array::from_slice(&weights, &[n, 1]))?;
        sum = sum.add(weighted.reshape(&[1, n, hidden])?)?;
    }
    Ok(sum)
}
