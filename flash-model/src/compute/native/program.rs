//! What a node of several kernels does when it is evaluated.

use std::fmt;

use flash_kernels::Buffer;

use crate::mlx::kernel::{Evaluated, Kernel};

/// A kernel, and where its numbers come from.
pub(super) struct Step {
    pub kernel: Box<dyn Kernel>,
    pub sources: Vec<Source>,
    /// Numbers of each value that it leaves.
    pub lens: Vec<usize>,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel: _, sources, lens } = self;
        f.debug_struct("Step").field("sources", sources).field("lens", lens).finish_non_exhaustive()
    }
}

/// Where what a kernel gets comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    /// The data of this input of the node.
    Input(usize),
    /// This array, which was there before the node was.
    Kept(usize),
    /// What a step before has left, counted through all steps.
    Value(usize),
}

/// Steps that run one behind the other.
pub(super) struct Program {
    kept: Vec<Evaluated>,
    steps: Vec<Step>,
    values: Vec<Life>,
}

/// Where a value is, and for how long.
#[derive(Debug, Clone, Copy)]
enum Life {
    /// It is this output of the node.
    Output(usize),
    /// It is nobody's once this step has run.
    Until(usize),
}

impl Program {
    /// Of which these values are the outputs, in this order.
    pub(super) fn new(kept: Vec<Evaluated>, steps: Vec<Step>, outputs: &[usize]) -> Self {
        let mut values = Vec::new();
        for (step_idx, step) in steps.iter().enumerate() {
            for source in &step.sources {
                if let Source::Value(idx) = source {
                    values[*idx] = Life::Until(step_idx);
                }
            }
            values.extend(step.lens.iter().map(|_| Life::Until(step_idx)));
        }
        for (at, idx) in outputs.iter().enumerate() {
            values[*idx] = Life::Output(at);
        }
        Self { kept, steps, values }
    }
}

impl Kernel for Program {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
        let Self { kept, steps, values } = self;
        let mut outputs: Vec<Option<&mut [f32]>> =
            outputs.iter_mut().map(|output| Some(&mut **output)).collect();
        let mut places: Vec<Place<'_>> = Vec::with_capacity(values.len());
        for (step_idx, step) in steps.iter_mut().enumerate() {
            let mut left: Vec<Place<'_>> = values[places.len()..]
                .iter()
                .zip(&step.lens)
                .map(|(life, &len)| match *life {
                    Life::Output(at) => Place::Output(outputs[at].take().expect("a value is one output")),
                    Life::Until(_) => Place::Buffer(Buffer::new(len)),
                })
                .collect();
            let numbers = step.sources.iter().map(|source| match *source {
                Source::Input(idx) => inputs[idx],
                Source::Kept(idx) => kept[idx].bytes(),
                Source::Value(idx) => bytemuck::cast_slice(places[idx].numbers()),
            });
            let numbers: Vec<&[u8]> = numbers.collect();
            let mut leaves: Vec<&mut [f32]> = left.iter_mut().map(Place::numbers_mut).collect();
            step.kernel.run(&numbers, &mut leaves);
            let own = (places.len()..places.len() + left.len()).map(Source::Value);
            places.append(&mut left);
            for source in step.sources.iter().copied().chain(own) {
                if let Source::Value(idx) = source
                    && matches!(values[idx], Life::Until(last) if last == step_idx)
                {
                    places[idx] = Place::Nowhere;
                }
            }
        }
    }
}

/// Where a step leaves numbers.
enum Place<'a> {
    Output(&'a mut [f32]),
    Buffer(Buffer),
    /// Nobody asks for them any more.
    Nowhere,
}

impl Place<'_> {
    fn numbers(&self) -> &[f32] {
        match self {
            Self::Output(numbers) => numbers,
            Self::Buffer(numbers) => numbers,
            Self::Nowhere => &[],
        }
    }

    fn numbers_mut(&mut self) -> &mut [f32] {
        match self {
            Self::Output(numbers) => numbers,
            Self::Buffer(numbers) => numbers,
            Self::Nowhere => &mut [],
        }
    }
}
