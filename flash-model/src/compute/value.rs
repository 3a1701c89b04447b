//! Values passed between layers.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

#[cfg(target_os = "linux")]
use super::native::Promise;

/// An array, or the future output of CPU kernels.
///
/// Consecutive kernels become one node of MLX's graph, because a node costs as much as several small kernels.
/// Intermediate results are not arrays then; requesting one as an array ends the node.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Array(Array),
    #[cfg(target_os = "linux")]
    Promise(Promise),
}

impl Value {
    /// Returns the value as an array of MLX's graph, without evaluating it.
    pub(crate) fn array(&self) -> Result<Array, Exception> {
        match self {
            Self::Array(array) => Ok(array.clone()),
            #[cfg(target_os = "linux")]
            Self::Promise(promise) => promise.array(),
        }
    }

    pub(crate) fn shape(&self) -> &[i32] {
        match self {
            Self::Array(array) => array.shape(),
            #[cfg(target_os = "linux")]
            Self::Promise(promise) => promise.shape(),
        }
    }

    /// Returns the extent of an axis; `-1` is the last.
    ///
    /// # Panics
    /// If there is no such axis.
    pub(crate) fn dim(&self, axis: i32) -> i32 {
        let shape = self.shape();
        let from_end = if axis < 0 { shape.len() as i32 } else { 0 };
        shape[(axis + from_end) as usize]
    }

    /// Returns whether this is a future output of kernels, whose intermediate results take memory only while they run.
    pub(crate) fn is_promise(&self) -> bool {
        match self {
            Self::Array(_) => false,
            #[cfg(target_os = "linux")]
            Self::Promise(_) => true,
        }
    }

    /// Returns whether the elements are f32, which outputs of kernels always are.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "used by the CPU kernels"))]
    pub(crate) fn is_float32(&self) -> bool {
        match self {
            Self::Array(array) => array.dtype() == Dtype::Float32,
            #[cfg(target_os = "linux")]
            Self::Promise(_) => true,
        }
    }
}

impl From<Array> for Value {
    fn from(array: Array) -> Self {
        Self::Array(array)
    }
}

impl From<&Array> for Value {
    fn from(array: &Array) -> Self {
        Self::Array(array.clone())
    }
}
