//! Reading arrays and parts of them.

use mlx_rs::Array;
use mlx_rs::error::{AsSliceError, Exception};
use mlx_rs::ops::indexing::TryIndexOp;

use super::Value;

/// Positions `start..end` of `x`, `[1, n, hidden]`.
pub(crate) fn positions(x: &Array, start: usize, end: usize) -> Result<Array, Exception> {
    x.try_index((.., start as i32..end as i32, ..))
}

/// The numbers of an array of f32, computed if they are not yet.
pub(crate) fn values(array: &Array) -> Result<&[f32], Exception> {
    array.try_as_slice().map_err(|error| match error {
        AsSliceError::Exception(error) => error,
        other => Exception::custom(other.to_string()),
    })
}

/// The arrays of `values`.
pub(crate) fn to_arrays(values: &[Value]) -> Result<Vec<Array>, Exception> {
    values.iter().map(Value::array).collect()
}
