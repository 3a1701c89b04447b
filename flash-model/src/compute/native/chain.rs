//! Consecutive kernels as one node of MLX's graph.
//!
//! A chain grows while layers run: each kernel is a step, and its future output is a [`Promise`]. When one is requested
//! as an array, the chain becomes a node: promises that are still alive become its outputs, and other results are
//! buffers between its steps.

use std::cell::{OnceCell, RefCell};
use std::rc::{Rc, Weak};

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::program::{Program, Source, Step};
use crate::compute::Value;
use crate::mlx::kernel::{Evaluated, Kernel, lazy};

/// The future output of a kernel, f32, row-major.
#[derive(Debug, Clone)]
pub(crate) struct Promise(Rc<Promised>);

#[derive(Debug)]
struct Promised {
    shape: Vec<i32>,
    chain: Rc<RefCell<Chain>>,
    /// Index among the chain's values.
    idx: usize,
    /// Set when the chain becomes a node.
    array: OnceCell<Array>,
}

/// An operand of a kernel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operand<'a> {
    Value(&'a Value),
    /// A parameter of a layer.
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
    /// Outputs of the steps, in order.
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
                // The steps keep evaluated arrays alive, so MLX need not track them as inputs.
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

    /// Returns the chain, unless it has become a node.
    fn open(&self) -> Option<&Rc<RefCell<Chain>>> {
        self.0.array.get().is_none().then_some(&self.0.chain)
    }

    /// Returns the output as an array of MLX's graph, and turns the chain into a node unless it is one.
    ///
    /// # Errors
    /// If MLX refuses the node; then no other output of the chain is available either.
    pub(crate) fn array(&self) -> Result<Array, Exception> {
        if self.0.array.get().is_none() {
            self.0.chain.take().become_node()?;
        }
        let refused = || Exception::custom("MLX refused the node that computes this array");
        self.0.array.get().cloned().ok_or_else(refused)
    }
}

impl Chain {
    fn become_node(self) -> Result<(), Exception> {
        let Self { inputs, kept, steps, values } = self;
        // In order of computation.
        let alive: Vec<Rc<Promised>> = values.iter().filter_map(Weak::upgrade).collect();
        let outputs: Vec<usize> = alive.iter().map(|promised| promised.idx).collect();
        let shapes: Vec<&[i32]> = alive.iter().map(|promised| promised.shape.as_slice()).collect();
        let arrays = lazy(Program::new(kept, steps, &outputs), &inputs, &shapes)?;
        for (promised, array) in alive.iter().zip(arrays) {
            // Cannot be set already: a chain becomes a node once.
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

    /// A kernel that writes one plus the sum of its inputs to each output, and counts its runs.
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
    fn consecutive_kernels_are_one_node() {
        let (runs, x) = (Arc::default(), given());
        let last = (0..5).fold(x.clone(), |value, _| plus_one(&runs, &[&value]));
        let array = last.array().unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 0, "nothing runs before it is evaluated");
        assert_eq!(values(&array).unwrap(), [5.0, 15.0]);
        assert_eq!(runs.load(Ordering::SeqCst), 5);
        assert_eq!(values(&x.array().unwrap()).unwrap(), [0.0, 10.0], "the input is unchanged");
    }

    #[test]
    fn promises_that_are_alive_are_outputs_and_computed_once() {
        let runs = Arc::default();
        let first = plus_one(&runs, &[&given()]);
        let second = plus_one(&runs, &[&first]);
        let third = plus_one(&runs, &[&first, &second, &first]);
        drop(second);
        assert_eq!(values(&third.array().unwrap()).unwrap(), [5.0, 35.0]);
        // A kernel on the node's outputs starts a new chain.
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
    fn a_chain_whose_outputs_are_dropped_never_runs() {
        let (runs, x) = (Arc::default(), Array::from_slice(&[0.0f32, 10.0], &[2]));
        drop(plus_one(&runs, &[&plus_one(&runs, &[&Value::from(&x)])]));
        assert_eq!((runs.load(Ordering::SeqCst), Arc::strong_count(&runs)), (0, 1));
    }
}
