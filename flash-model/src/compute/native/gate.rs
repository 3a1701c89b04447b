//! A gate by itself, as a node.

use std::ffi::CStr;
use std::sync::Arc;

use flash_kernels::{Gate, Pool};
use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::expect;
use crate::compute::Activation;
use crate::mlx::kernel::{Kernel, lazy};

/// Inputs: the gate, and what it lets through.
struct Gated {
    pool: Arc<Pool>,
    kind: Gate,
}

/// What `activation` lets through, element by element.
pub(in crate::compute) fn gated(
    pool: &Arc<Pool>,
    activation: Activation,
    gate: &Array,
    values: &Array,
) -> Result<Array, Exception> {
    expect([gate, values].iter().all(|x| x.dtype() == Dtype::Float32), "rows in float32")?;
    expect(gate.shape() == values.shape(), "gate for each value")?;
    let node = Gated { pool: Arc::clone(pool), kind: activation.kernel() };
    let [passed] = lazy(node, &[gate, values], [values.shape()])?;
    Ok(passed)
}

impl Kernel for Gated {
    const NAME: &'static CStr = c"FlashGated";

    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
        let [gate, values] = [0, 1].map(|idx| bytemuck::cast_slice(inputs[idx]));
        flash_kernels::gated(&self.pool, self.kind, gate, values, outputs[0]);
    }
}
