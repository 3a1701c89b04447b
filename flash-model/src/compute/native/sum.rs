//! Sums of two arrays.

use mlx_rs::error::Exception;

use super::expect;
use crate::compute::Value;
use crate::mlx::kernel::Kernel;

use super::chain::run;

/// A kernel that adds its two inputs.
struct Sum;

/// Computes `a + b`, element by element.
pub(super) fn sum(a: &Value, b: &Value) -> Result<Value, Exception> {
    expect(a.is_float32() && b.is_float32() && a.shape() == b.shape(), "two sums in float32 of one shape")?;
    run(Sum, &[a.into(), b.into()], a.shape())
}

impl Kernel for Sum {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
        let [a, b] = [0, 1].map(|idx| bytemuck::cast_slice::<u8, f32>(inputs[idx]));
        for (sum, (a, b)) in outputs[0].iter_mut().zip(a.iter().zip(b)) {
            *sum = a + b;
        }
    }
}
