//! Products with weights in quantization modes that mlx-rs does not expose.

#![expect(unsafe_code, reason = "foreign function")]

use std::ffi::CStr;
use std::ptr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Stream};

/// Computes `x · Wᵀ` with codes that have scales and no biases. `mode` is MLX's name of the quantization mode.
pub(crate) fn quantized_matmul(
    x: &Array,
    weight: &Array,
    scales: &Array,
    mode: &'static CStr,
    group_size: i32,
    bits: i32,
) -> Result<Array, Exception> {
    let stream = Stream::thread_local_or_default();
    let optional = |value| mlx_sys::mlx_optional_int { value, has_value: true };
    let none = mlx_sys::mlx_array { ctx: ptr::null_mut() };
    let mut product = none;
    // SAFETY: all handles are alive until this returns, MLX takes a null handle as none, and the mode is
    // zero-terminated.
    let status = unsafe {
        mlx_sys::mlx_quantized_matmul(
            &raw mut product,
            x.as_ptr(),
            weight.as_ptr(),
            scales.as_ptr(),
            none,
            true,
            optional(group_size),
            optional(bits),
            mode.as_ptr(),
            stream.as_ptr(),
        )
    };
    if status != 0 || product.ctx.is_null() {
        let what = format!("MLX cannot multiply {:?} by {mode:?} of {:?}", x.shape(), weight.shape());
        return Err(Exception::custom(what));
    }
    // SAFETY: a fresh handle that nobody else frees.
    Ok(unsafe { Array::from_ptr(product) })
}
