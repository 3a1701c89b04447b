//! Kernels that follow each other, as one node of MLX's graph.
//!
//! A chain grows while layers are run: each kernel is a step, and what it will leave is a [`Promise`]. When somebody asks for an
//! array, the chain becomes a node: what promises are still held for are its outputs, and the rest is memory that its steps pass on.

use std::cell::{OnceCell, RefCell};
use std::rc::{Rc, Weak};

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::program::{Program, Source, Step};
use crate::compute::Value;
use crate::mlx::kernel::{Evaluated, Kernel, lazy};

/// Numbers that a kernel will leave, f32, row-major.
#[derive(Debug, Clone)]
pub(crate) struct Promise(Rc<Promised>);

#[derive(Debug)]
struct Promised {
    shape: Vec<i32>,
    chain: Rc<RefCell<Chain>>,
    /// Its index among the chain's values.
    idx: usize,
    /// Once the chain has become a node.
    array: OnceCell<Array>,
}

/// What a kernel gets.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operand<'a> {
    Value(&'a Value),
    /// A layer's parameter.
    Array(&'a Array),
}

impl<'a> From<&'a Value> for Operand<'a> {
    fn from(value: &'a Value) -> Self {
        Self::Value(value)
    }
}

impl<'a> From<&'a Array> for Operand<'a> {
    fn from(array: &'a Array) -> Self {
        Self::Array(array)
    }
}

#[derive(Debug, Default)]
struct Chain {
    inputs: Vec<Array>,
    kept: Vec<Evaluated>,
    steps: Vec<Step>,
    /// What its steps leave, in their order.
    values: Vec<Weak<Promised>>,
}

/// Appends `kernel` to the chain of its operands; its one output has `shape`.
///
/// # Errors
/// If MLX refuses the node that another chain becomes.
pub(super) fn run(kernel: impl Kernel, operands: &[Operand<'_>], shape: &[i32]) -> Result<Value, Exception> {
    let mut outputs = run_each(kernel, operands, &[shape])?;
    Ok(outputs.pop().expect("one output for each shape"))
}

/// Appends `kernel` to the chain of its operands; its outputs have `shapes`.
///
/// # Errors
/// If MLX refuses the node that another chain becomes.
pub(super) fn run_each(
    kernel: impl Kernel,
    operands: &[Operand<'_>],
    shapes: &[&[i32]],
) -> Result<Vec<Value>, Exception> {
    let open = operands.iter().find_map(|operand| match operand {
        Operand::Value(Value::Promise(promise)) => promise.open(),
        _ => None,
    });
    let chain = open.cloned().unwrap_or_default();
    let mut sources = Vec::with_capacity(operands.len());
    for operand in operands {
        let array = match *operand {
            Operand::Value(Value::Array(array)) => array.clone(),
            Operand::Array(array) => match Evaluated::of(array) {
                // MLX need not look at it, nor keep it: the steps do.
                Some(evaluated) => {
                    let kept = &mut chain.borrow_mut().kept;
                    sources.push(Source::Kept(kept.len()));
                    kept.push(evaluated);
                    continue;
                }
                None => array.clone(),
            },
            Operand::Value(Value::Promise(promise)) => {
                if promise.open().is_some_and(|open| Rc::ptr_eq(open, &chain)) {
                    sources.push(Source::Value(promise.0.idx));
                    continue;
                }
                promise.array()?
            }
        };
        let inputs = &mut chain.borrow_mut().inputs;
        sources.push(Source::Input(inputs.len()));
        inputs.push(array);
    }
    let mut open = chain.borrow_mut();
    let first = open.values.len();
    let promise = |(idx, shape): (usize, &&[i32])| {
        let (shape, chain) = (shape.to_vec(), Rc::clone(&chain));
        Promise(Rc::new(Promised { shape, chain, idx, array: OnceCell::new() }))
    };
    let promises: Vec<Promise> = (first..).zip(shapes).map(promise).collect();
    open.values.extend(promises.iter().map(|promise| Rc::downgrade(&promise.0)));
    let lens = shapes.iter().map(|shape| shape.iter().map(|&extent| extent as usize).product());
    open.steps.push(Step { kernel: Box::new(kernel), sources, lens: lens.collect() });
    drop(open);
    Ok(promises.into_iter().map(Value::Promise).collect())
}

impl Promise {
    pub(crate) fn shape(&self) -> &[i32] {
        &self.0.shape
    }

    /// The chain, if it is no node yet.
    fn open(&self) -> Option<&Rc<RefCell<Chain>>> {
        self.0.array.get().is_none().then_some(&self.0.chain)
    }

    /// As an array of MLX's graph: the chain becomes a node, if it is not one yet.
    ///
    /// # Errors
    /// If MLX refuses the node; then there is none, nor any for what else the chain would leave.
    pub(crate) fn array(&self) -> Result<Array, Exception> {
        if self.0.array.get().is_none() {
            self.0.chain.take().become_node()?;
        }
        let refused = || Exception::custom("MLX refused the node that these numbers come from");
        self.0.array.get().cloned().ok_or_else(refused)
    }
}

impl Chain {
    fn become_node(self) -> Result<(), Exception> {
        let Self { inputs, kept, steps, values } = self;
        // In the order in which they are computed.
        let held: Vec<Rc<Promised>> = values.iter().filter_map(Weak::upgrade).collect();
        let outputs: Vec<usize> = held.iter().map(|promised| promised.idx).collect();
        let shapes: Vec<&[i32]> = held.iter().map(|promised| promised.shape.as_slice()).collect();
        let arrays = lazy(Program::new(kept, steps, &outputs), &inputs, &shapes)?;
        for (promised, array) in held.iter().zip(arrays) {
            // Nobody else sets it: a chain becomes a node once.
            let _ = promised.array.set(array);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::compute::arrays::values;

    /// Leaves its inputs' sum, plus one, in each output, and counts.
    struct PlusOne(Arc<AtomicUsize>);

    impl Kernel for PlusOne {
        fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
            self.0.fetch_add(1, Ordering::SeqCst);
            for output in outputs {
                output.fill(1.0);
                for input in inputs {
                    let numbers = bytemuck::cast_slice::<u8, f32>(input);
                    output.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
                }
            }
        }
    }

    fn plus_one(runs: &Arc<AtomicUsize>, operands: &[&Value]) -> Value {
        let operands: Vec<_> = operands.iter().map(|value| Operand::from(*value)).collect();
        run(PlusOne(Arc::clone(runs)), &operands, &[2]).unwrap()
    }

    fn given() -> Value {
        Array::from_slice(&[0.0f32, 10.0], &[2]).into()
    }

    #[test]
    fn kernels_that_follow_each_other_are_one_node() {
        let (runs, x) = (Arc::default(), given());
        let last = (0..5).fold(x.clone(), |value, _| plus_one(&runs, &[&value]));
        let array = last.array().unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 0, "nothing runs before it is asked for");
        assert_eq!(values(&array).unwrap(), [5.0, 15.0]);
        assert_eq!(runs.load(Ordering::SeqCst), 5);
        assert_eq!(values(&x.array().unwrap()).unwrap(), [0.0, 10.0], "what was given stays as it was");
    }

    #[test]
    fn what_is_held_of_a_chain_is_there_and_is_computed_once() {
        let runs = Arc::default();
        let first = plus_one(&runs, &[&given()]);
        let second = plus_one(&runs, &[&first]);
        let third = plus_one(&runs, &[&first, &second, &first]);
        drop(second);
        assert_eq!(values(&third.array().unwrap()).unwrap(), [5.0, 35.0]);
        // What comes behind begins a chain of its own.
        let fourth = plus_one(&runs, &[&first, &third]);
        assert_eq!(values(&fourth.array().unwrap()).unwrap(), [7.0, 47.0]);
        assert_eq!(values(&first.array().unwrap()).unwrap(), [1.0, 11.0]);
        assert_eq!(runs.load(Ordering::SeqCst), 4);
    }

    #[test]
    fn chains_meet() {
        let runs = Arc::default();
        let [a, b] = [(); 2].map(|()| plus_one(&runs, &[&plus_one(&runs, &[&given()])]));
        let both = plus_one(&runs, &[&a, &b]);
        let again = plus_one(&runs, &[&b, &both, &a]);
        assert_eq!(values(&again.array().unwrap()).unwrap(), [10.0, 50.0]);
        assert_eq!(values(&both.array().unwrap()).unwrap(), [5.0, 25.0]);
        assert_eq!(runs.load(Ordering::SeqCst), 6);
    }

    #[test]
    fn several_outputs_of_a_kernel_are_held_or_not() {
        let (runs, x) = (Arc::<AtomicUsize>::default(), given());
        let shapes: [&[i32]; 3] = [&[2], &[1, 2], &[2, 1]];
        let outputs = run_each(PlusOne(Arc::clone(&runs)), &[Operand::from(&x)], &shapes).unwrap();
        let [a, b, c] = outputs.try_into().unwrap();
        drop(a);
        let next = plus_one(&runs, &[&c]);
        drop(c);
        assert_eq!(values(&next.array().unwrap()).unwrap(), [2.0, 12.0]);
        assert_eq!((b.shape(), b.dim(-1)), ([1, 2].as_slice(), 2));
        assert_eq!(values(&b.array().unwrap()).unwrap(), [1.0, 11.0]);
        assert_eq!(runs.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn what_nobody_asks_for_never_runs() {
        let (runs, x) = (Arc::default(), Array::from_slice(&[0.0f32, 10.0], &[2]));
        drop(plus_one(&runs, &[&plus_one(&runs, &[&Value::from(&x)])]));
        assert_eq!((runs.load(Ordering::SeqCst), Arc::strong_count(&runs)), (0, 1));
    }
}
