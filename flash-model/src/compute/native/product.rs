//! Products with weight matrices, optionally followed by an addition or an activation function.

use std::sync::Arc;

use flash_kernels::{FloatType, Floats, Gate, KernelError, Matrix, Pool, Projection, Strips};
use flash_kernels::{matmul_add, matmul_each, matmul_gated};
use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::chain::{Operand, run, run_each};
use super::{expect, float_type};
use crate::checkpoint::config::{QuantizedFormat, QuantizedMode};
use crate::compute::{self, Activation, Quantized, Value};
use crate::mlx::kernel::Kernel;

/// Computes `x · Wᵀ (+ bias)`.
pub(super) fn product(pool: &Arc<Pool>, x: &Value, matrix: compute::Matrix<'_>) -> Result<Value, Exception> {
    let mut node = Node::new(pool, Epilogue::None, x)?;
    node.push(matrix)?;
    let shape = node.output_shape(matrix);
    run(node.products, &node.inputs, &shape)
}

/// Returns the strips that codes of this format are repacked into.
pub(super) fn strips(pool: &Pool, format: QuantizedFormat) -> Option<Strips> {
    (format.mode == QuantizedMode::Affine).then(|| pool.strips(format.bits as u32))?
}

/// Computes `x · Wᵀ (+ bias)` for each matrix, as one kernel.
pub(super) fn products(
    pool: &Arc<Pool>,
    x: &Value,
    matrices: &[compute::Matrix<'_>],
) -> Result<Vec<Value>, Exception> {
    let mut node = Node::new(pool, Epilogue::None, x)?;
    matrices.iter().try_for_each(|matrix| node.push(*matrix))?;
    let shapes: Vec<Vec<i32>> = matrices.iter().map(|matrix| node.output_shape(*matrix)).collect();
    let shapes: Vec<&[i32]> = shapes.iter().map(Vec::as_slice).collect();
    run_each(node.products, &node.inputs, &shapes)
}

/// Computes `onto + x · Wᵀ (+ bias)`.
pub(super) fn add_product(
    pool: &Arc<Pool>,
    onto: &Value,
    x: &Value,
    matrix: compute::Matrix<'_>,
) -> Result<Value, Exception> {
    let mut node = Node::new(pool, Epilogue::Add, x)?;
    node.push(matrix)?;
    let shape = node.output_shape(matrix);
    expect(onto.is_float32() && onto.shape() == shape, "a sum for each output")?;
    node.inputs.push(onto.into());
    run(node.products, &node.inputs, &shape)
}

/// Computes `activation(x · Gᵀ (+ bias), x · Uᵀ (+ bias))`.
pub(super) fn gated_product(
    pool: &Arc<Pool>,
    activation: Activation,
    x: &Value,
    gate: compute::Matrix<'_>,
    up: compute::Matrix<'_>,
) -> Result<Value, Exception> {
    let mut node = Node::new(pool, Epilogue::Gate(activation.into()), x)?;
    node.push(gate)?;
    node.push(up)?;
    let shape = node.output_shape(up);
    expect(node.output_shape(gate) == shape, "gate for each value")?;
    run(node.products, &node.inputs, &shape)
}

/// Computes `relu(x · Wᵀ (+ bias))²`.
pub(super) fn squared_relu_product(
    pool: &Arc<Pool>,
    x: &Value,
    matrix: compute::Matrix<'_>,
) -> Result<Value, Exception> {
    let mut node = Node::new(pool, Epilogue::SquaredRelu, x)?;
    node.push(matrix)?;
    let shape = node.output_shape(matrix);
    run(node.products, &node.inputs, &shape)
}

/// A kernel that multiplies rows by several matrices. Inputs: the rows; of each matrix the weight, scales and biases if
/// it is quantized, and the bias if it has one; the array that the product is added to.
struct Products {
    pool: Arc<Pool>,
    epilogue: Epilogue,
    layouts: Vec<MatrixLayout>,
}

/// The operation after the products.
#[derive(Clone, Copy)]
enum Epilogue {
    None,
    Add,
    Gate(Gate),
    SquaredRelu,
}

/// Storage layout of a matrix.
pub(super) struct MatrixLayout {
    shape: [usize; 2],
    weight: Weight,
    bias: Option<FloatType>,
    is_wide: bool,
}

#[derive(Clone, Copy)]
enum Weight {
    Float(FloatType),
    Affine { format: QuantizedFormat, float: FloatType, strips: Option<Strips> },
    Mxfp4,
    Mxfp8,
    Nvfp4,
}

/// A kernel of products under construction, with its inputs.
struct Node<'a> {
    products: Products,
    x: &'a Value,
    inputs: Vec<Operand<'a>>,
}

impl<'a> Node<'a> {
    fn new(pool: &Arc<Pool>, epilogue: Epilogue, x: &'a Value) -> Result<Self, Exception> {
        expect(x.is_float32(), "rows in float32")?;
        let products = Products { pool: Arc::clone(pool), epilogue, layouts: Vec::new() };
        Ok(Self { products, x, inputs: vec![x.into()] })
    }

    fn push(&mut self, matrix: compute::Matrix<'a>) -> Result<(), Exception> {
        let layout = MatrixLayout::push(&self.products.pool, matrix, self.x.dim(-1), &mut self.inputs)?;
        self.products.layouts.push(layout);
        Ok(())
    }

    /// Returns the shape of the product: that of `x`, with the rows of the matrix as columns.
    fn output_shape(&self, matrix: compute::Matrix<'_>) -> Vec<i32> {
        let mut shape = self.x.shape().to_vec();
        *shape.last_mut().expect("it has a last dimension, which is k") = matrix.n_rows(self.x.dim(-1));
        shape
    }
}

impl Kernel for Products {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
        self.compute(inputs, outputs).expect("the shapes were checked when the node was made");
    }
}

impl Products {
    fn compute(&self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) -> Result<(), KernelError> {
        let [x, rest @ ..] = inputs else { unreachable!("pushed first") };
        let x = bytemuck::cast_slice(x);
        let mut rest = rest.iter().copied();
        let projections = self.layouts.iter().map(|layout| layout.projection(&mut rest));
        let projections = projections.collect::<Result<Vec<_>, _>>()?;
        match (self.epilogue, projections.as_slice(), &mut *outputs) {
            (Epilogue::Add, [projection], [y]) => {
                let onto = bytemuck::cast_slice(rest.next().expect("pushed last"));
                matmul_add(&self.pool, x, *projection, onto, y)
            }
            (Epilogue::Gate(kind), [gate, up], [y]) => matmul_gated(&self.pool, kind, x, *gate, *up, y),
            (Epilogue::SquaredRelu, [projection], [y]) => {
                matmul_each(&self.pool, x, &[*projection], &mut [&mut **y])?;
                squared_relu(y);
                Ok(())
            }
            (_, projections, outputs) => matmul_each(&self.pool, x, projections, outputs),
        }
    }
}

/// `relu(x)²` of each.
pub(super) fn squared_relu(values: &mut [f32]) {
    for value in values {
        let open = if *value < 0.0 { 0.0 } else { *value };
        *value = open * open;
    }
}

impl Weight {
    /// Codes with these scales, in strips or in rows.
    fn quantized(
        format: QuantizedFormat,
        scales: &Array,
        biases: Option<&Array>,
        strips: Option<Strips>,
    ) -> Result<Self, Exception> {
        if let (QuantizedMode::Affine, Some(biases)) = (format.mode, biases) {
            let float = float_type(scales)?;
            expect(float_type(biases)? == float, "scales and biases of one type")?;
            expect(biases.shape() == scales.shape(), "a bias for each group")?;
            return Ok(Self::Affine { format, float, strips });
        }
        expect(
            scales.dtype() == Dtype::Uint8 && strips.is_none(),
            "scales of a byte each, and rows of codes",
        )?;
        match (format.mode, biases) {
            (QuantizedMode::Mxfp4, None) => Ok(Self::Mxfp4),
            (QuantizedMode::Mxfp8, None) => Ok(Self::Mxfp8),
            (QuantizedMode::Nvfp4, None) => Ok(Self::Nvfp4),
            _ => Err(Exception::custom("only affine formats have biases, and they require them")),
        }
    }
}

impl MatrixLayout {
    /// Returns the layout of a matrix of `k` columns, and appends its arrays to `inputs`.
    pub(super) fn push<'a>(
        pool: &Pool,
        matrix: compute::Matrix<'a>,
        k: i32,
        inputs: &mut Vec<Operand<'a>>,
    ) -> Result<Self, Exception> {
        let compute::Matrix { weight, quantized, bias, is_wide } = matrix;
        let n = matrix.n_rows(k);
        inputs.push(weight.into());
        let (layout, weight_shape) = match quantized {
            None => (Weight::Float(float_type(weight)?), [n, k]),
            Some(Quantized { format, scales, biases }) => {
                let is_codes = k % format.group_size == 0 && weight.dtype() == Dtype::Uint32;
                expect(is_codes, "codes in whole groups")?;
                let (row_words, n_groups) = (format.row_words(k), k / format.group_size);
                let in_strips = |strips: Strips, row_len: i32| {
                    let strip_rows = strips.rows() as i32;
                    [n / strip_rows, row_len * strip_rows]
                };
                let fits = |strips: &Strips| {
                    n % strips.rows() as i32 == 0 && weight.shape() == in_strips(*strips, row_words)
                };
                let strips = strips(pool, format).filter(fits);
                let shape = strips.map_or([n, row_words], |strips| in_strips(strips, row_words));
                let groups = strips.map_or([n, n_groups], |strips| in_strips(strips, n_groups));
                expect(scales.shape() == groups, "a scale for each group")?;
                inputs.push(scales.into());
                inputs.extend(biases.map(Operand::from));
                (Weight::quantized(format, scales, biases, strips)?, shape)
            }
        };
        expect(weight.shape() == weight_shape, "rows that fit the matrix")?;
        if let Some(bias) = bias {
            expect(bias.shape() == [n], "a bias for each row")?;
            inputs.push(bias.into());
        }
        let bias = bias.map(float_type).transpose()?;
        Ok(Self { shape: [n as usize, k as usize], weight: layout, bias, is_wide })
    }

    /// Takes the matrix's arrays from the inputs.
    pub(super) fn projection<'a>(
        &self,
        inputs: &mut impl Iterator<Item = &'a [u8]>,
    ) -> Result<Projection<'a>, KernelError> {
        let mut next = || inputs.next().expect("pushed with the matrix");
        let w = match self.weight {
            Weight::Float(float) => Matrix::float(self.shape, Floats { float, bytes: next() })?,
            Weight::Mxfp4 => Matrix::mxfp4(self.shape, next(), next())?,
            Weight::Mxfp8 => Matrix::mxfp8(self.shape, next(), next())?,
            Weight::Nvfp4 => Matrix::nvfp4(self.shape, next(), next())?,
            Weight::Affine { format: QuantizedFormat { group_size, bits, .. }, float, strips } => {
                let ([codes, scales, biases], group_size) = ([next(), next(), next()], group_size as usize);
                let rows = Matrix::affine(self.shape, bits as u32, group_size, codes, float, scales, biases)?;
                strips.map_or(Ok(rows), |strips| rows.in_strips(strips))?
            }
        };
        let w = if self.is_wide { w.wide() } else { w };
        Ok(Projection { w, bias: self.bias.map(|float| Floats { float, bytes: next() }) })
    }
}
