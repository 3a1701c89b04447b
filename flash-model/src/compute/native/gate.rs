//! A gate by itself.

use std::sync::Arc;

use flash_kernels::{Gate, Pool};
use mlx_rs::error::Exception;

use super::chain::run;
use super::expect;
use crate::compute::{Activation, Value};
use crate::mlx::kernel::Kernel;

/// Inputs: the gate, and what it lets through, which may be rows for each number of the gate.
struct Gated {
    pool: Arc<Pool>,
    kind: Gate,
}

/// What `activation` lets through, element by element or row by row.
pub(super) fn gated(
    pool: &Arc<Pool>,
    activation: Activation,
    gate: &Value,
    values: &Value,
) -> Result<Value, Exception> {
    expect([gate, values].iter().all(|x| x.is_float32()), "rows in float32")?;
    let [above @ .., _] = values.shape() else { return Err(Exception::custom("it takes rows")) };
    let is_by_row = gate.shape() == [above, &[1]].concat();
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
        for (opening, (values, passed)) in gate.iter().zip(rows) {
            row_gate.fill(*opening);
            flash_kernels::gated(&self.pool, self.kind, &row_gate, values, passed);
        }
    }
}
