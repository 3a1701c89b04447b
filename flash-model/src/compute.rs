//! The operations that layers are built from, and the two backends that implement them: MLX's own operations ([`mlx`]),
//! and the CPU kernels of `flash-kernels` as nodes of MLX's graph ([`native`]).
//!
//! Layers call [`Operations`] through a [`Backend`] and do not know which one it is. Arguments are plain data: arrays
//! of weights ([`Matrix`], [`Norm`], …) and the sizes of an operator ([`AttentionParams`], …).

pub(crate) mod arrays;
mod attention;
mod experts;
mod matrix;
mod mlx;
#[cfg(target_os = "linux")]
mod native;
mod norm;
mod operations;
mod options;
mod recurrent;
mod rope;
mod segment;
mod value;

use std::ops::Deref;
use std::sync::Arc;

use crate::ModelError;

pub(crate) use attention::{AttentionInput, AttentionParams, HeadNorms};
pub(crate) use experts::{ExpertMatrices, ExpertRows, Term};
pub(crate) use matrix::{Activation, Matrix, Quantized};
pub(crate) use norm::{Norm, NormArgs};
pub(crate) use operations::Operations;
pub use options::{Compute, ComputeOptions};
pub(crate) use recurrent::{
    Convolution, GatedDeltaDims, GatedDeltaInput, GatedDeltaWeights, Mamba2Dims, Mamba2Weights,
};
pub(crate) use rope::{Frequencies, Rope};
pub(crate) use segment::{Segment, row_ranges};
pub(crate) use value::Value;

/// A shared backend. Dereferences to its [`Operations`].
#[derive(Debug, Clone)]
pub(crate) struct Backend(Arc<dyn Operations>);

impl Backend {
    /// Returns the backend that `options` select on this machine.
    ///
    /// # Errors
    /// [`ModelError::NativeCompute`] if the system has no kernels, or none for the requested instruction set.
    pub(crate) fn new(options: ComputeOptions) -> Result<Self, ModelError> {
        if options.compute.is_native()? { Self::native(options) } else { Ok(Self::mlx()) }
    }

    /// Returns the backend of MLX's own operations.
    pub(crate) fn mlx() -> Self {
        Self(Arc::new(mlx::Mlx))
    }

    #[cfg(target_os = "linux")]
    fn native(options: ComputeOptions) -> Result<Self, ModelError> {
        Ok(Self(Arc::new(native::Native::new(options.kernels, options.is_exact)?)))
    }

    #[cfg(not(target_os = "linux"))]
    fn native(_: ComputeOptions) -> Result<Self, ModelError> {
        Err(ModelError::NativeCompute { reason: "it is available on Linux only".to_owned() })
    }
}

impl Deref for Backend {
    type Target = dyn Operations;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use flash_kernels::{Isa, KernelTuning};

    use super::*;

    #[test]
    fn an_unavailable_instruction_set_is_refused() {
        let other = if cfg!(target_arch = "aarch64") { Isa::Avx2 } else { Isa::Neon };
        let tuning = KernelTuning::usual(Isa::Portable).unwrap();
        let other = KernelTuning { isa: other, ..tuning };
        let refused = Backend::new(ComputeOptions { kernels: Some(other), ..Compute::Native.into() });
        assert!(matches!(refused, Err(ModelError::NativeCompute { .. })));
        for isa in Isa::available() {
            let kernels = Some(KernelTuning { isa: *isa, ..tuning });
            let options = ComputeOptions { kernels, ..Compute::Native.into() };
            assert_eq!(Backend::new(options).unwrap().name(), "native");
        }
    }

    #[test]
    fn exact_kernels_have_a_name_of_their_own() {
        let exact = ComputeOptions { is_exact: true, ..Compute::Native.into() };
        let [exact, usual] = [exact, Compute::Native.into()].map(|options| Backend::new(options).unwrap());
        assert_ne!(exact.name(), usual.name(), "sessions of one are not resumed by the other");
        assert!(exact.is_exact() && !usual.is_exact());
    }
}
