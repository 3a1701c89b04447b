//! Options that select a backend.

use flash_kernels::KernelTuning;
use mlx_rs::{Device, DeviceType};

use crate::ModelError;

/// The backend that computes a model's layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Compute {
    /// [`Native`](Self::Native) on Linux if MLX's default device is a CPU, else [`Mlx`](Self::Mlx).
    #[default]
    Auto,
    /// MLX's own operations.
    Mlx,
    /// The CPU kernels of `flash-kernels`, as nodes of MLX's graph.
    Native,
}

impl Compute {
    /// Returns whether the CPU kernels compute on this machine.
    ///
    /// # Errors
    /// [`ModelError::Mlx`] if MLX does not tell its default device.
    pub fn is_native(self) -> Result<bool, ModelError> {
        match self {
            Self::Mlx => Ok(false),
            Self::Native => Ok(true),
            Self::Auto if cfg!(target_os = "linux") => {
                Ok(matches!(Device::try_default()?.get_type()?, DeviceType::Cpu))
            }
            Self::Auto => Ok(false),
        }
    }
}

/// Options of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ComputeOptions {
    /// The backend.
    pub compute: Compute,
    /// The instruction set, threads and tuning of the CPU kernels; `None` for the best instruction set of this machine and
    /// its [usual](KernelTuning::usual) tuning. MLX's operations ignore it.
    pub kernels: Option<KernelTuning>,
    /// Whether the CPU kernels round activations to 30 bits in every product with quantized weights, so that results
    /// differ from MLX's in float32 only by the order of additions. Otherwise activations are rounded to 15 bits,
    /// except inputs of routers. Products with weights in memory take 1.6 to 2.6 times as long; where the disk is the
    /// bottleneck, nothing is lost.
    pub is_exact: bool,
}

impl From<Compute> for ComputeOptions {
    fn from(compute: Compute) -> Self {
        Self { compute, ..Self::default() }
    }
}
