//! Experts of a mixture: the rows each computes, and the weighted sum of them.

use super::{Activation, Matrix};

/// The matrices of an expert: `down(activation(gate(x), up(x)))`, or without an activation `down(relu(up(x))²)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpertMatrices<'a> {
    pub activation: Option<Activation>,
    /// None if there is no gate, or if `up` holds its rows as well: then they alternate, the gate's first.
    pub gate: Option<Matrix<'a>>,
    pub up: Matrix<'a>,
    pub down: Matrix<'a>,
}

/// An expert, and the rows that it gets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpertRows<'a> {
    pub expert: ExpertMatrices<'a>,
    pub tokens: &'a [u32],
}

/// A term of the sum of experts: `weight` times a row, added to a token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Term {
    pub token: usize,
    /// Counted through all parts.
    pub row: usize,
    pub weight: f32,
}
