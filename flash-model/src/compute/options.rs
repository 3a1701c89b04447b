//! The choice of a backend.

use flash_kernels::Isa;

/// Which backend computes a model's layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Compute {
    /// [`Native`](Self::Native) where MLX's default device is a CPU on Linux, else [`Mlx`](Self::Mlx).
    #[default]
    Auto,
    /// MLX's own operations.
    Mlx,
    /// The CPU kernels of `flash-kernels`, as nodes of MLX's graph.
    Native,
}

/// A backend and its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ComputeOptions {
    /// The backend.
    pub compute: Compute,
    /// The instruction set of the CPU kernels, if not the best one of this machine. MLX's operations ignore it.
    pub isa: Option<Isa>,
    /// Whether the CPU kernels take activations with 30 bits in every product with quantised weights, so that results differ from
    /// MLX's in float32 by no more than the order of additions does. Otherwise they are rounded to 15 bits, except in the inputs of
    /// routers. Products with weights in memory take 1.6 to 2.6 times as long; where the disk is the limit, nothing is lost.
    pub is_exact: bool,
}

impl From<Compute> for ComputeOptions {
    fn from(compute: Compute) -> Self {
        Self { compute, ..Self::default() }
    }
}
