//! Gated activation functions.

use std::sync::Arc;

use flash_kernels::{Gate, Pool};
use mlx_rs::error::Exception;

use super::chain::run;
use super::expect;
use crate::compute::{Activation, Value};
use crate::mlx::kernel::Kernel;

/// A kernel that applies a gated activation function. Inputs: the gate, with an element for each value or for each row;
/// the values.
struct Gated {
    pool: Arc<Pool>,
    kind: Gate,
}

/// Computes `activation(gate, values)`; `gate` has an element for each element or for each row of `values`.
pub(super) fn gated(
    pool: &Arc<Pool>,
    activation: Activation,
    gate: &Value,
    values: &Value,
) -> Result<Value, Exception> {
    expect([gate, values].iter().all(|x| x.is_float32()), "rows in float32")?;
    let [leading @ .., _] = values.shape() else {
        return Err(Exception::custom("a kernel was given no rows"));
    };
    let is_by_row = gate.shape() == [leading, &[1]].concat();
    expect(is_by_row || gate.shape() == values.shape(), "gate for each value, or for each row")?;
    let node = Gated { pool: Arc::clone(pool), kind: activation.into() };
    run(node, &[gate.into(), values.into()], values.shape())
}

impl Kernel for Gated {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
        let [gate, values] = [0, 1].map(|idx| bytemuck::cast_slice(inputs[idx]));
        if gate.len() == values.len() {
            return flash_kernels::gated(&self.pool, self.kind, gate, values, outputs[0]);
        }
        let n = values.len() / gate.len().max(1);
        let rows = values.chunks_exact(n).zip(outputs[0].chunks_exact_mut(n));
        let mut row_gate = vec![0.0; n];
        for (gate, (values, out)) in gate.iter().zip(rows) {
            row_gate.fill(*gate);
            flash_kernels::gated(&self.pool, self.kind, &row_gate, values, out);
        }
    }
}
