//! Products with a matrix per head.

use std::sync::Arc;

use flash_kernels::{KernelError, MatrixStack, Pool, gather_matmul};
use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::chain::{Operand, run};
use super::expect;
use super::product::MatrixLayout;
use crate::compute::{self, Quantized, Value};
use crate::mlx::kernel::Kernel;

/// Computes `x · Wᵀ` with a matrix per head.
pub(super) fn product_each(
    pool: &Arc<Pool>,
    x: &Value,
    matrices: compute::Matrix<'_>,
) -> Result<Value, Exception> {
    let (&[batch, n, heads, k], &[stack, rows, _]) = (x.shape(), matrices.weight.shape()) else {
        return Err(Exception::custom("a kernel was given no row and matrix per head"));
    };
    expect(x.is_float32() && stack == heads, "matrix for each head")?;
    // One matrix with the rows of all heads.
    let flat = |array: &Array| array.reshape(&[heads * rows, -1]);
    let weight = flat(matrices.weight)?;
    let arrays = matrices.quantized.map(|Quantized { scales, biases, .. }| {
        Ok::<_, Exception>((flat(scales)?, biases.map(flat).transpose()?))
    });
    let arrays = arrays.transpose()?;
    let quantized = matrices.quantized.zip(arrays.as_ref()).map(|(quantized, (scales, biases))| Quantized {
        scales,
        biases: biases.as_ref(),
        ..quantized
    });
    let mut inputs = vec![Operand::from(x)];
    let matrix = compute::Matrix { weight: &weight, quantized, bias: None, is_wide: matrices.is_wide };
    let layout = MatrixLayout::push(pool, matrix, k, &mut inputs)?;
    let node = ProductEach { pool: Arc::clone(pool), layout, n_heads: heads as usize };
    run(node, &inputs, &[batch, n, heads, rows])
}

/// A kernel that multiplies each row by the matrix of its head. Inputs: the rows; the matrices of all heads as one
/// matrix.
struct ProductEach {
    pool: Arc<Pool>,
    layout: MatrixLayout,
    n_heads: usize,
}

impl Kernel for ProductEach {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
        self.compute(inputs, outputs[0]).expect("the shapes were checked when the node was made");
    }
}

impl ProductEach {
    fn compute(&self, inputs: &[&[u8]], y: &mut [f32]) -> Result<(), KernelError> {
        let Self { pool, layout, n_heads } = self;
        let [x, rest @ ..] = inputs else { unreachable!("pushed first") };
        let x: &[f32] = bytemuck::cast_slice(x);
        let all = layout.projection(&mut rest.iter().copied())?;
        let matrices = MatrixStack::split(&all.w, *n_heads)?;
        let rows: Vec<u32> = (0..y.len().checked_div(matrices.n()).unwrap_or(0) as u32).collect();
        let heads: Vec<u32> = rows.iter().map(|row| row % *n_heads as u32).collect();
        gather_matmul(pool, x, &matrices, None, &rows, &heads, y)
    }
}
