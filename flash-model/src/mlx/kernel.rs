//! Custom functions as nodes of MLX's graph.

#![expect(unsafe_code, reason = "MLX calls back with pointers")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Mutex;
use std::{ptr, slice};

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::size_of_dtype;

/// A function that computes arrays from other arrays.
pub(crate) trait Kernel: Send + 'static {
    /// Computes the outputs. `inputs`: the data of the node's inputs, row-major, at any alignment, as weights have in
    /// their files. `outputs`: f32, row-major, of the node's shapes.
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]);
}

/// The bytes of an evaluated array, which a kernel can use without making it an input of its node.
#[derive(Debug)]
pub(crate) struct Evaluated {
    /// Keeps the memory alive.
    _array: Array,
    data: *const u8,
    len_bytes: usize,
}

// SAFETY: MLX counts the owners of an array's memory with atomics, and does not write to shared memory.
unsafe impl Send for Evaluated {}

impl Evaluated {
    /// Returns the bytes of `array`; none if it is not evaluated yet, or not row-contiguous.
    pub(crate) fn of(array: &Array) -> Option<Self> {
        let (mut is_there, mut is_contiguous) = (false, false);
        // SAFETY: the handle is a live array's, and both functions only read its flags.
        let data = unsafe {
            let status = mlx_sys::_mlx_array_is_available(&raw mut is_there, array.as_ptr());
            if status != 0 || !is_there {
                return None;
            }
            let status = mlx_sys::_mlx_array_is_row_contiguous(&raw mut is_contiguous, array.as_ptr());
            if status != 0 || !is_contiguous {
                return None;
            }
            mlx_sys::mlx_array_data_uint8(array.as_ptr())
        };
        let len_bytes = array.size() * size_of_dtype(array.dtype());
        // An empty array may have no data at all.
        let has_data = len_bytes == 0 || !data.is_null();
        has_data.then(|| Self { _array: array.clone(), data, len_bytes })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        if self.len_bytes == 0 {
            return &[];
        }
        // SAFETY: the array is evaluated and row-contiguous, so its data has this length; it stays valid and unchanged
        // as long as the array is kept.
        unsafe { slice::from_raw_parts(self.data, self.len_bytes) }
    }
}

/// Name of the nodes in MLX's graph.
const NAME: &CStr = c"FlashKernels";

/// Data of a node, which MLX drops with it.
struct Node<K> {
    /// Never contended: a node runs once, on one thread.
    kernel: Mutex<K>,
    input_bytes: Vec<usize>,
    output_lens: Vec<usize>,
}

/// Returns f32 arrays of `shapes` that `kernel` computes from `inputs` when one of them is evaluated, on MLX's CPU
/// stream.
///
/// Inputs that are not row-contiguous when the node runs are copied.
pub(crate) fn lazy<K: Kernel>(
    kernel: K,
    inputs: &[Array],
    shapes: &[&[i32]],
) -> Result<Vec<Array>, Exception> {
    unsafe extern "C" fn run<K: Kernel>(
        node: *mut c_void,
        inputs: *const *const c_void,
        outputs: *const *mut c_void,
    ) {
        // SAFETY: `node` is the box leaked below, which MLX keeps until this has returned.
        let node = unsafe { &*node.cast::<Node<K>>() };
        // SAFETY: MLX passes as many inputs as the node was created with.
        let pointers = unsafe { slice::from_raw_parts(inputs.cast::<*const u8>(), node.input_bytes.len()) };
        let inputs: Vec<&[u8]> = pointers
            .iter()
            .zip(&node.input_bytes)
            .map(|(&data, &len)| {
                // An empty array may have no data at all.
                if len == 0 {
                    return &[][..];
                }
                // SAFETY: the input, or its copy, is row-contiguous, has the shape and dtype that its length was
                // computed from, and is kept by MLX until this has returned.
                unsafe { slice::from_raw_parts(data, len) }
            })
            .collect();
        // SAFETY: MLX passes as many outputs as the node was created with.
        let pointers = unsafe { slice::from_raw_parts(outputs, node.output_lens.len()) };
        let mut outputs: Vec<&mut [f32]> = pointers
            .iter()
            .zip(&node.output_lens)
            .map(|(&data, &len)| {
                if len == 0 {
                    return &mut [][..];
                }
                // SAFETY: the native library has just allocated each output for this node's shapes, and nobody reads it
                // before this has returned. MLX's allocations are aligned. Any bit pattern is a valid f32, so it need
                // not be initialized.
                unsafe { slice::from_raw_parts_mut(data.cast::<f32>(), len) }
            })
            .collect();
        // A kernel's panic is a bug, and aborts here: an `extern "C"` function must not unwind.
        node.kernel.lock().expect("a node runs once").run(&inputs, &mut outputs);
    }
    unsafe extern "C" fn drop_node<K>(node: *mut c_void) {
        // SAFETY: `node` is the box leaked below, and MLX calls this once.
        drop(unsafe { Box::from_raw(node.cast::<Node<K>>()) });
    }

    let bytes = |array: &Array| array.size() * size_of_dtype(array.dtype());
    let node = Node {
        kernel: Mutex::new(kernel),
        input_bytes: inputs.iter().map(bytes).collect(),
        output_lens: shapes
            .iter()
            .map(|shape| shape.iter().map(|&extent| extent as usize).product())
            .collect(),
    };
    let handles: Vec<_> = inputs.iter().map(Array::as_ptr).collect();
    let dims: Vec<c_int> = shapes.iter().map(|shape| shape.len() as c_int).collect();
    let mut outputs = vec![mlx_sys::mlx_array { ctx: ptr::null_mut() }; shapes.len()];
    // SAFETY: the handles and the shapes are read before this returns, and as many outputs are written; MLX owns the
    // node from here on.
    let status = unsafe {
        native_kernel(
            NAME.as_ptr(),
            handles.as_ptr(),
            handles.len(),
            shapes.concat().as_ptr(),
            dims.as_ptr(),
            dims.len(),
            run::<K>,
            Box::into_raw(Box::new(node)).cast(),
            drop_node::<K>,
            outputs.as_mut_ptr(),
        )
    };
    if status != 0 {
        return Err(Exception::custom("MLX refused a kernel's node"));
    }
    // SAFETY: fresh handles that nobody else frees.
    Ok(outputs.into_iter().map(|handle| unsafe { Array::from_ptr(handle) }).collect())
}

type Run = unsafe extern "C" fn(*mut c_void, *const *const c_void, *const *mut c_void);

unsafe extern "C" {
    #[link_name = "flash_array_kernel"]
    fn native_kernel(
        name: *const c_char,
        inputs: *const mlx_sys::mlx_array,
        n_inputs: usize,
        shapes: *const c_int,
        dims: *const c_int,
        n_outputs: usize,
        run: Run,
        payload: *mut c_void,
        dtor: unsafe extern "C" fn(*mut c_void),
        outputs: *mut mlx_sys::mlx_array,
    ) -> c_int;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use mlx_rs::ops::indexing::{IntoStrideBy, TryIndexOp};

    use super::*;

    struct Scale(f32, Arc<AtomicUsize>);

    impl Kernel for Scale {
        fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
            self.1.fetch_add(1, Ordering::SeqCst);
            for output in outputs {
                for (out, bytes) in output.iter_mut().zip(inputs[0].as_chunks::<4>().0) {
                    *out = self.0 * f32::from_le_bytes(*bytes);
                }
            }
        }
    }

    fn scale(factor: f32, runs: &Arc<AtomicUsize>, x: &Array, shape: &[i32]) -> Array {
        lazy(Scale(factor, Arc::clone(runs)), std::slice::from_ref(x), &[shape]).unwrap().remove(0)
    }

    #[test]
    fn a_kernel_runs_when_it_is_evaluated_and_in_order() {
        let runs = Arc::default();
        let x = Array::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[2, 2]);
        let doubled = scale(2.0, &runs, &x.add(&x).unwrap(), &[2, 2]);
        let last = scale(10.0, &runs, &doubled.try_index(1).unwrap(), &[2]);
        assert_eq!(runs.load(Ordering::SeqCst), 0, "nothing runs before it is evaluated");
        assert_eq!(last.add(&last).unwrap().as_slice::<f32>(), [240.0, 320.0]);
        assert_eq!(runs.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn one_run_of_a_kernel_computes_all_of_its_outputs() {
        let runs = Arc::default();
        let x = Array::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[2, 2]);
        let shapes: [&[i32]; 3] = [&[2, 2], &[0], &[1, 1, 2]];
        let outputs = lazy(Scale(2.0, Arc::clone(&runs)), &[x], &shapes).unwrap();
        let [whole, none, half] = outputs.try_into().unwrap();
        assert_eq!((half.shape(), half.as_slice::<f32>()), ([1, 1, 2].as_slice(), [2.0, 4.0].as_slice()));
        assert_eq!(none.size(), 0);
        drop(half);
        assert_eq!(whole.as_slice::<f32>(), [2.0, 4.0, 6.0, 8.0]);
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn data_of_a_kernel_is_dropped_even_if_it_never_runs() {
        let runs = Arc::default();
        let x = Array::from_slice(&[1.0f32], &[1]);
        drop(scale(1.0, &runs, &x, &[1]));
        assert_eq!(Arc::strong_count(&runs), 1);
        assert_eq!(runs.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn an_input_that_is_not_contiguous_is_copied() {
        let numbers: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let x = Array::from_slice(&numbers, &[2, 3, 4]);
        // Both for an evaluated array and for one that is not evaluated yet.
        for x in [x.clone(), x.add(Array::from_f32(0.0)).unwrap()] {
            let strided = [
                x.transpose_axes(&[2, 0, 1]).unwrap(),
                x.try_index((.., 1.., 1..3)).unwrap(),
                x.try_index((.., .., 2..)).unwrap().transpose_axes(&[1, 0, 2]).unwrap(),
                mlx_rs::ops::broadcast_to(x.try_index((.., ..1, ..)).unwrap(), &[2, 3, 4]).unwrap(),
                x.try_index((.., (..).stride_by(2), (..).stride_by(-1))).unwrap(),
            ];
            for strided in strided {
                let shape = strided.shape().to_vec();
                let kernel = scale(2.0, &Arc::default(), &strided, &shape);
                let wanted = strided.contiguous().unwrap();
                let wanted: Vec<f32> = wanted.as_slice::<f32>().iter().map(|x| 2.0 * x).collect();
                assert_eq!(kernel.as_slice::<f32>(), wanted, "{shape:?}");
            }
        }
    }

    #[test]
    fn halves_and_bytes_that_are_not_contiguous_are_copied_whole() {
        struct Bytes;
        impl Kernel for Bytes {
            fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
                outputs[0].iter_mut().zip(inputs[0]).for_each(|(out, byte)| *out = f32::from(*byte));
            }
        }
        let halves = [0x0102_u16, 0x0304, 0x0506, 0x0708].map(half::f16::from_bits);
        let halves = Array::from_slice(&halves, &[2, 2]);
        let bytes = Array::from_slice(&[2_u8, 1, 4, 3, 6, 5, 8, 7], &[2, 4]);
        for (x, wanted) in [
            (halves.t(), [2.0, 1.0, 6.0, 5.0, 4.0, 3.0, 8.0, 7.0]),
            (bytes.t(), [2.0, 6.0, 1.0, 5.0, 4.0, 8.0, 3.0, 7.0]),
        ] {
            let output = lazy(Bytes, &[x], &[&[8]]).unwrap().remove(0);
            assert_eq!(output.as_slice::<f32>(), wanted);
        }
    }

    #[test]
    fn an_empty_array_is_an_input_and_an_output() {
        let x = Array::from_slice(&[0.0f32; 0], &[0]);
        let output = scale(1.0, &Arc::default(), &x, &[0]);
        output.eval().unwrap();
        assert_eq!(output.size(), 0);
    }
}
