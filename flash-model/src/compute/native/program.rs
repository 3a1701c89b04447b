//! The evaluation of a node of several kernels.

use std::fmt;

use flash_kernels::Buffer;

use crate::mlx::kernel::{Evaluated, Kernel};

/// A kernel with the sources of its inputs.
pub(super) struct Step {
    pub kernel: Box<dyn Kernel>,
    pub sources: Vec<Source>,
    /// Elements of each output.
    pub lens: Vec<usize>,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel: _, sources, lens } = self;
        f.debug_struct("Step").field("sources", sources).field("lens", lens).finish_non_exhaustive()
    }
}

/// Source of a kernel's input.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    /// An input of the node.
    Input(usize),
    /// An array that was evaluated before the node was created.
    Kept(usize),
    /// An output of an earlier step; outputs are numbered through all steps.
    Value(usize),
}

/// Steps that run in sequence.
pub(super) struct Program {
    kept: Vec<Evaluated>,
    steps: Vec<Step>,
    values: Vec<Lifetime>,
}

/// Lifetime of a step's output.
#[derive(Debug, Clone, Copy)]
enum Lifetime {
    /// It is an output of the node.
    Output(usize),
    /// It is a buffer that is freed after this step.
    Until(usize),
}

impl Program {
    /// Creates a program whose node has the values `outputs` as outputs, in that order.
    pub(super) fn new(kept: Vec<Evaluated>, steps: Vec<Step>, outputs: &[usize]) -> Self {
        let mut values = Vec::new();
        for (step_idx, step) in steps.iter().enumerate() {
            for source in &step.sources {
                if let Source::Value(idx) = source {
                    values[*idx] = Lifetime::Until(step_idx);
                }
            }
            values.extend(step.lens.iter().map(|_| Lifetime::Until(step_idx)));
        }
        for (at, idx) in outputs.iter().enumerate() {
            values[*idx] = Lifetime::Output(at);
        }
        Self { kept, steps, values }
    }
}

impl Kernel for Program {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
        let Self { kept, steps, values } = self;
        let mut outputs: Vec<Option<&mut [f32]>> =
            outputs.iter_mut().map(|output| Some(&mut **output)).collect();
        let mut memory: Vec<Memory<'_>> = Vec::with_capacity(values.len());
        for (step_idx, step) in steps.iter_mut().enumerate() {
            let mut step_memory: Vec<Memory<'_>> = values[memory.len()..]
                .iter()
                .zip(&step.lens)
                .map(|(lifetime, &len)| match *lifetime {
                    Lifetime::Output(at) => {
                        Memory::Output(outputs[at].take().expect("a value is one output"))
                    }
                    Lifetime::Until(_) => Memory::Buffer(Buffer::new(len)),
                })
                .collect();
            let step_inputs = step.sources.iter().map(|source| match *source {
                Source::Input(idx) => inputs[idx],
                Source::Kept(idx) => kept[idx].bytes(),
                Source::Value(idx) => bytemuck::cast_slice(memory[idx].as_slice()),
            });
            let step_inputs: Vec<&[u8]> = step_inputs.collect();
            let mut step_outputs: Vec<&mut [f32]> =
                step_memory.iter_mut().map(Memory::as_mut_slice).collect();
            step.kernel.run(&step_inputs, &mut step_outputs);
            let own = (memory.len()..memory.len() + step_memory.len()).map(Source::Value);
            memory.append(&mut step_memory);
            for source in step.sources.iter().copied().chain(own) {
                if let Source::Value(idx) = source
                    && matches!(values[idx], Lifetime::Until(last) if last == step_idx)
                {
                    memory[idx] = Memory::Freed;
                }
            }
        }
    }
}

/// Memory of a step's output.
enum Memory<'a> {
    Output(&'a mut [f32]),
    Buffer(Buffer),
    Freed,
}

impl Memory<'_> {
    fn as_slice(&self) -> &[f32] {
        match self {
            Self::Output(elements) => elements,
            Self::Buffer(elements) => elements,
            Self::Freed => &[],
        }
    }

    fn as_mut_slice(&mut self) -> &mut [f32] {
        match self {
            Self::Output(elements) => elements,
            Self::Buffer(elements) => elements,
            Self::Freed => &mut [],
        }
    }
}
