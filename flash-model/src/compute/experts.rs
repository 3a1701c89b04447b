//! Arguments of a mixture's experts: the rows that each computes, and their weighted sum.

use super::{Activation, Matrix};

/// The matrices of an expert: `down(activation(gate(x), up(x)))`, or without an activation `down(relu(up(x))²)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpertMatrices<'a> {
    pub activation: Option<Activation>,
    /// None if there is no gate, or if its rows are interleaved with those of `up`, the gate's first.
    pub gate: Option<Matrix<'a>>,
    pub up: Matrix<'a>,
    pub down: Matrix<'a>,
}

/// An expert and the tokens routed to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpertRows<'a> {
    pub expert: ExpertMatrices<'a>,
    pub tokens: &'a [u32],
}

/// A term of the sum of experts: `weight` times a row, added to a token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Term {
    pub token: usize,
    /// Index of the row in the concatenation of all parts.
    pub row: usize,
    pub weight: f32,
}
