//! Experts: their outputs, and the weighted sum of them.

use std::sync::Arc;

use flash_kernels::{Buffer, FloatType, Floats, Gate, KernelError, Matrix, MatrixStack, Pool, Projection};
use flash_kernels::{gated, gated_pairs, gather_matmul};
use mlx_rs::error::Exception;

use super::chain::{Operand, run};
use super::expect;
use super::product::{MatrixLayout, squared_relu};
use crate::compute::{self, ExpertMatrices, Term, Value};
use crate::mlx::kernel::Kernel;

/// A kernel that computes the outputs of experts, each for its rows. Inputs: the rows `[n, k]`; gate (if separate), up
/// and down of each expert.
struct ExpertRows {
    pool: Arc<Pool>,
    /// None if there are no gates.
    kind: Option<Gate>,
    layouts: Vec<ExpertLayout>,
    /// Row of the input, for each row of the output.
    tokens: Vec<u32>,
    /// Expert, for each row of the output.
    experts: Vec<u32>,
}

/// Storage layouts of an expert's matrices.
struct ExpertLayout {
    /// None if its rows are interleaved with those of `up`, or if there is no gate.
    gate: Option<MatrixLayout>,
    up: MatrixLayout,
    down: MatrixLayout,
}

/// Computes the output rows of each expert for its tokens, concatenated in the order of experts: `[rows, hidden]`.
pub(super) fn expert_rows(
    pool: &Arc<Pool>,
    x: &Value,
    work: &[compute::ExpertRows<'_>],
) -> Result<Value, Exception> {
    expect(x.is_float32(), "rows in float32")?;
    let (mut inputs, mut layouts) = (vec![Operand::from(x)], Vec::with_capacity(work.len()));
    let (mut tokens, mut experts) = (Vec::new(), Vec::new());
    let (mut hidden, mut kind) = (0, None);
    for (idx, compute::ExpertRows { expert, tokens: own }) in (0..).zip(work) {
        let ExpertMatrices { activation, gate, up, down } = *expert;
        let k = x.dim(-1);
        let up_rows = up.n_rows(k);
        let is_interleaved = activation.is_some() && gate.is_none();
        let is_whole = gate.map_or(!is_interleaved || up_rows % 2 == 0, |gate| gate.n_rows(k) == up_rows);
        expect(is_whole, "gate for each value")?;
        let intermediate = if is_interleaved { up_rows / 2 } else { up_rows };
        (hidden, kind) = (down.n_rows(intermediate), activation.map(Gate::from));
        layouts.push(ExpertLayout {
            gate: gate.map(|gate| MatrixLayout::push(pool, gate, k, &mut inputs)).transpose()?,
            up: MatrixLayout::push(pool, up, k, &mut inputs)?,
            down: MatrixLayout::push(pool, down, intermediate, &mut inputs)?,
        });
        tokens.extend_from_slice(own);
        experts.extend(own.iter().map(|_| idx));
    }
    let n_rows = tokens.len() as i32;
    let node = ExpertRows { pool: Arc::clone(pool), kind, layouts, tokens, experts };
    run(node, &inputs, &[n_rows, hidden])
}

impl Kernel for ExpertRows {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
        self.compute(inputs, outputs[0]).expect("the shapes were checked when the node was made");
    }
}

impl ExpertRows {
    fn compute(&self, inputs: &[&[u8]], rows: &mut [f32]) -> Result<(), KernelError> {
        let [x, rest @ ..] = inputs else { unreachable!("pushed first") };
        let x: &[f32] = bytemuck::cast_slice(x);
        let mut rest = rest.iter().copied();
        let [mut gates, mut ups, mut downs] = [const { Vec::new() }; 3];
        for ExpertLayout { gate, up, down } in &self.layouts {
            if let Some(gate) = gate {
                gates.push(gate.projection(&mut rest)?);
            }
            ups.push(up.projection(&mut rest)?);
            downs.push(down.projection(&mut rest)?);
        }
        let is_gate_separate = !gates.is_empty();
        let (gate, up, down) = (Stack::new(gates)?, Stack::new(ups)?, Stack::new(downs)?);
        let n_rows = self.tokens.len();
        let product = |stack: &Stack<'_>, x: &[f32], lhs: &[u32], y: &mut [f32]| {
            gather_matmul(&self.pool, x, &stack.matrices, stack.bias(), lhs, &self.experts, y)
        };
        let mut values = Buffer::new(n_rows * up.matrices.n());
        product(&up, x, &self.tokens, &mut values)?;
        let activated = match self.kind {
            Some(kind) => {
                let mut activated = Buffer::new(n_rows * down.matrices.k());
                if is_gate_separate {
                    let mut gates = Buffer::new(values.len());
                    product(&gate, x, &self.tokens, &mut gates)?;
                    gated(&self.pool, kind, &gates, &values, &mut activated);
                } else {
                    gated_pairs(&self.pool, kind, &values, &mut activated);
                }
                activated
            }
            None => {
                squared_relu(&mut values);
                values
            }
        };
        let own: Vec<u32> = (0..n_rows as u32).collect();
        product(&down, &activated, &own, rows)
    }
}

/// One of the matrices (gate, up or down) of all experts.
struct Stack<'a> {
    matrices: MatrixStack<'a>,
    /// f32, `[n_experts, n]`.
    biases: Option<Vec<f32>>,
}

impl<'a> Stack<'a> {
    fn new(projections: Vec<Projection<'a>>) -> Result<Self, KernelError> {
        let mut biases = Vec::new();
        for Floats { float, bytes } in projections.iter().filter_map(|projection| projection.bias) {
            let mut decoded = vec![0.0; bytes.len() / float.size_bytes()];
            float.decode_into(bytes, &mut decoded)?;
            biases.extend(decoded);
        }
        let matrices: Vec<Matrix<'a>> = projections.into_iter().map(|projection| projection.w).collect();
        let biases = (!biases.is_empty()).then_some(biases);
        Ok(Self { matrices: MatrixStack::new(matrices)?, biases })
    }

    fn bias(&self) -> Option<Floats<'_>> {
        let biases = self.biases.as_deref()?;
        Some(Floats { float: FloatType::F32, bytes: bytemuck::cast_slice(biases) })
    }
}

/// A kernel that adds weighted rows. Inputs: the array that they are added to, then the parts, whose rows are numbered
/// consecutively.
struct AddRows {
    hidden: usize,
    terms: Vec<Term>,
}

/// Adds terms, in order, to `onto`, `[1, n, hidden]`: each is its row of `parts` times its weight.
pub(super) fn add_rows(onto: &Value, parts: &[Value], terms: &[Term]) -> Result<Value, Exception> {
    expect(onto.is_float32(), "sums in float32")?;
    let node = AddRows { hidden: onto.dim(-1) as usize, terms: terms.to_vec() };
    let inputs: Vec<Operand<'_>> = [onto].into_iter().chain(parts).map(Operand::from).collect();
    run(node, &inputs, onto.shape())
}

impl Kernel for AddRows {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
        let ([onto, parts @ ..], [sum]) = (inputs, outputs) else { unreachable!("one sum of something") };
        sum.copy_from_slice(bytemuck::cast_slice(onto));
        let rows: Vec<&[f32]> = parts
            .iter()
            .flat_map(|part| bytemuck::cast_slice::<u8, f32>(part).chunks_exact(self.hidden))
            .collect();
        for Term { token, row, weight } in &self.terms {
            let sum = &mut sum[token * self.hidden..][..self.hidden];
            for (sum, value) in sum.iter_mut().zip(rows[*row]) {
                *sum += weight * value;
            }
        }
    }
}
