//! RMSNorm.

use std::sync::Arc;

use flash_kernels::{FloatType, Floats, Pool};
use mlx_rs::error::Exception;

use super::chain::run;
use super::{expect, float_type};
use crate::compute::{Norm, NormArgs, Value};
use crate::mlx::kernel::Kernel;

/// A kernel that computes RMSNorm. Inputs: `x`, the weight.
struct RmsNorm {
    pool: Arc<Pool>,
    norm: StoredNorm,
}

/// A norm whose weight is an input of a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoredNorm {
    weight: FloatType,
    args: NormArgs,
}

pub(super) fn rms_norm(pool: &Arc<Pool>, x: &Value, norm: Norm<'_>) -> Result<Value, Exception> {
    expect(x.is_float32(), "rows in float32")?;
    let node = RmsNorm { pool: Arc::clone(pool), norm: StoredNorm::new(norm, x.dim(-1))? };
    run(node, &[x.into(), norm.weight.into()], x.shape())
}

impl StoredNorm {
    /// Checks the weight of a norm over rows of `n` elements.
    pub(super) fn new(Norm { weight, args }: Norm<'_>, n: i32) -> Result<Self, Exception> {
        expect(weight.shape() == [n] && n > 0, "a weight for each column")?;
        Ok(Self { weight: float_type(weight)?, args })
    }

    pub(super) fn compute(self, pool: &Pool, x: &[f32], weight: &[u8], out: &mut [f32]) {
        let NormArgs { eps, weight_offset } = self.args;
        let weight = Floats { float: self.weight, bytes: weight };
        if weight_offset == 0.0 {
            return flash_kernels::rms_norm(pool, x, weight, eps, out);
        }
        let mut moved = vec![0.0; weight.bytes.len() / weight.float.size_bytes()];
        weight.float.decode_into(weight.bytes, &mut moved).expect("counted from the bytes");
        moved.iter_mut().for_each(|weight| *weight += weight_offset);
        let weight = Floats { float: FloatType::F32, bytes: bytemuck::cast_slice(&moved) };
        flash_kernels::rms_norm(pool, x, weight, eps, out);
    }
}

impl Kernel for RmsNorm {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
        self.norm.compute(&self.pool, bytemuck::cast_slice(inputs[0]), inputs[1], outputs[0]);
    }
}
