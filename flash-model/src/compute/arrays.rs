//! Helpers for slicing and reading arrays.

use flash_kernels::FloatType;
use mlx_rs::error::{AsSliceError, Exception};
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype};

use super::Value;

/// Returns positions `start..end` of `x`, `[1, n, hidden]`.
pub(crate) fn positions(x: &Array, start: usize, end: usize) -> Result<Array, Exception> {
    x.try_index((.., start as i32..end as i32, ..))
}

/// Returns the elements of an f32 array, and evaluates it first if needed.
pub(crate) fn values(array: &Array) -> Result<&[f32], Exception> {
    array.try_as_slice().map_err(|error| match error {
        AsSliceError::Exception(error) => error,
        other => Exception::custom(other.to_string()),
    })
}

/// Converts values to arrays, without evaluating them.
pub(crate) fn to_arrays(values: &[Value]) -> Result<Vec<Array>, Exception> {
    values.iter().map(Value::array).collect()
}

/// Returns the type of floating-point numbers as kernels know it; `None` for codes, and for numbers of other types.
pub(crate) fn float_type(dtype: Dtype) -> Option<FloatType> {
    match dtype {
        Dtype::Float32 => Some(FloatType::F32),
        Dtype::Float16 => Some(FloatType::F16),
        Dtype::Bfloat16 => Some(FloatType::BF16),
        _ => None,
    }
}
