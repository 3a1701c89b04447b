//! What layers hand to each other.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

#[cfg(target_os = "linux")]
use super::native::Promise;

/// Numbers that an array has, or that kernels will leave when they run.
///
/// Kernels that follow each other become one node of MLX's graph, for a node costs as much as some small kernels. What is between
/// them is no array then, unless somebody asks for one: that ends the node.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Array(Array),
    #[cfg(target_os = "linux")]
    Promise(Promise),
}

impl Value {
    /// As an array of MLX's graph, not evaluated.
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

    /// The extent of an axis; `-1` is the last.
    ///
    /// # Panics
    /// If there is no such axis.
    pub(crate) fn dim(&self, axis: i32) -> i32 {
        let shape = self.shape();
        let from_end = if axis < 0 { shape.len() as i32 } else { 0 };
        shape[(axis + from_end) as usize]
    }

    /// Whether kernels will leave them, which take memory for what is between them while they run, and not before.
    pub(crate) fn is_promise(&self) -> bool {
        match self {
            Self::Array(_) => false,
            #[cfg(target_os = "linux")]
            Self::Promise(_) => true,
        }
    }

    /// Whether these are numbers in single precision, as all that kernels leave are.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "kernels ask"))]
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
