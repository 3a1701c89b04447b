//! RMSNorm as a node.

use std::ffi::CStr;
use std::sync::Arc;

use flash_kernels::{FloatType, Floats, Pool};
use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::{expect, float_type};
use crate::compute::Norm;
use crate::layers::NormArgs;
use crate::mlx::kernel::{Kernel, lazy};

/// RMSNorm. Inputs: `x`, the weight.
struct RmsNorm {
    pool: Arc<Pool>,
    weight: FloatType,
    eps: f32,
}

pub(in crate::compute) fn rms_norm(
    pool: &Arc<Pool>,
    x: &Array,
    Norm { weight, args: NormArgs { eps } }: Norm<'_>,
) -> Result<Array, Exception> {
    expect(weight.shape() == [x.dim(-1)] && x.dim(-1) > 0, "a weight for each column")?;
    expect(x.dtype() == Dtype::Float32, "rows in float32")?;
    let node = RmsNorm { pool: Arc::clone(pool), weight: float_type(weight)?, eps };
    let [normed] = lazy(node, &[x, weight], [x.shape()])?;
    Ok(normed)
}

impl Kernel for RmsNorm {
    const NAME: &'static CStr = c"FlashRmsNorm";

    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
        let weight = Floats { float: self.weight, bytes: inputs[1] };
        flash_kernels::rms_norm(&self.pool, bytemuck::cast_slice(inputs[0]), weight, self.eps, outputs[0]);
    }
}
