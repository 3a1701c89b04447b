//! The backend of the kernels of `flash-kernels`, as nodes of MLX's graph. Consecutive kernels are one node
//! ([`chain`]).

mod attention;
mod chain;
mod experts;
mod gate;
mod heads;
mod norm;
mod product;
mod program;
mod recurrent;
mod sum;

use std::sync::Arc;

use flash_kernels::{FloatType, Isa, KernelTuning, Pool, Strips};
use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{
    Activation, AttentionInput, AttentionParams, ExpertRows, GatedDeltaInput, GatedDeltaWeights,
    Mamba2Weights, Matrix, Norm, Operations, Segment, Term, Value, arrays,
};
use crate::ModelError;
use crate::checkpoint::config::QuantizedFormat;
use crate::kv::CacheLayout;

pub(super) use chain::Promise;

/// Scratch memory of a kernel thread: the scales and biases of 128 rows of weights, two sums for each of these rows and
/// 512 rows of activations, packed panels, attention scores.
const KERNEL_THREAD_BYTES: u64 = 2 << 20;

/// The backend that computes with CPU kernels.
#[derive(Debug)]
pub(super) struct Native {
    pool: Arc<Pool>,
    /// See [`ComputeOptions::is_exact`](super::ComputeOptions::is_exact).
    is_exact: bool,
}

impl Native {
    /// Starts the threads of `tuning`, or a thread per core with the kernels of the machine's best instruction set.
    ///
    /// # Errors
    /// [`ModelError::NativeCompute`] for an instruction set that this machine does not have.
    pub(super) fn new(tuning: Option<KernelTuning>, is_exact: bool) -> Result<Self, ModelError> {
        let pool = tuning.map_or_else(|| Pool::for_machine(Isa::best()), Pool::new);
        let pool = pool.map_err(|error| ModelError::NativeCompute { reason: error.to_string() })?;
        Ok(Self { pool: Arc::new(pool), is_exact })
    }
}

impl Operations for Native {
    fn name(&self) -> &'static str {
        if self.is_exact { "native exactly" } else { "native" }
    }

    fn scratch_bytes(&self, _widened_bytes: u64, activation_bytes: u64) -> u64 {
        // Weights are used as stored. Activations are copied once, to elements of half the size; wide ones are split
        // into two rows first, which are copied to elements of half the size in turn.
        let copied_bytes = if self.is_exact { 3 * activation_bytes } else { activation_bytes / 2 };
        copied_bytes + KERNEL_THREAD_BYTES * self.pool.n_threads() as u64
    }

    fn is_exact(&self) -> bool {
        self.is_exact
    }

    fn cache_layout(&self) -> CacheLayout {
        CacheLayout::Shared
    }

    fn scores_all_at_once(&self) -> bool {
        false
    }

    fn wraps_windows(&self) -> bool {
        true
    }

    fn is_batch_invariant(&self) -> bool {
        true
    }

    fn widens_weights(&self) -> bool {
        false
    }

    fn strips(&self, format: QuantizedFormat) -> Option<Strips> {
        product::strips(&self.pool, format)
    }

    fn product(&self, x: &Value, matrix: Matrix<'_>) -> Result<Value, Exception> {
        product::product(&self.pool, x, matrix)
    }

    fn products(&self, x: &Value, matrices: &[Matrix<'_>]) -> Result<Vec<Value>, Exception> {
        product::products(&self.pool, x, matrices)
    }

    fn add_product(&self, onto: &Value, x: &Value, matrix: Matrix<'_>) -> Result<Value, Exception> {
        product::add_product(&self.pool, onto, x, matrix)
    }

    fn gated(&self, activation: Activation, gate: &Value, values: &Value) -> Result<Value, Exception> {
        gate::gated(&self.pool, activation, gate, values)
    }

    fn gated_product(
        &self,
        activation: Activation,
        x: &Value,
        gate: Matrix<'_>,
        up: Matrix<'_>,
    ) -> Result<Value, Exception> {
        product::gated_product(&self.pool, activation, x, gate, up)
    }

    fn product_each(&self, x: &Value, matrices: Matrix<'_>) -> Result<Value, Exception> {
        heads::product_each(&self.pool, x, matrices)
    }

    fn squared_relu_product(&self, x: &Value, matrix: Matrix<'_>) -> Result<Value, Exception> {
        product::squared_relu_product(&self.pool, x, matrix)
    }

    fn attend(
        &self,
        params: &AttentionParams,
        input: AttentionInput<'_>,
        segments: &mut [Segment<'_>],
    ) -> Result<Value, Exception> {
        attention::attend(&self.pool, params, input, segments)
    }

    fn gated_delta(
        &self,
        net: GatedDeltaWeights<'_>,
        input: &GatedDeltaInput,
        segments: &mut [Segment<'_>],
    ) -> Result<Value, Exception> {
        recurrent::gated_delta(&self.pool, net, input, segments)
    }

    fn mamba2(
        &self,
        mixer: Mamba2Weights<'_>,
        projected: &Value,
        segments: &mut [Segment<'_>],
    ) -> Result<Value, Exception> {
        recurrent::mamba2(&self.pool, mixer, projected, segments)
    }

    fn expert_rows(&self, x: &Value, work: &[ExpertRows<'_>]) -> Result<Value, Exception> {
        experts::expert_rows(&self.pool, x, work)
    }

    fn add_rows(&self, onto: &Value, parts: &[Value], terms: &[Term]) -> Result<Value, Exception> {
        experts::add_rows(onto, parts, terms)
    }

    fn rms_norm(&self, x: &Value, norm: Norm<'_>) -> Result<Value, Exception> {
        norm::rms_norm(&self.pool, x, norm)
    }

    fn sum(&self, a: &Value, b: &Value) -> Result<Value, Exception> {
        sum::sum(a, b)
    }
}

impl From<Activation> for flash_kernels::Gate {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::Silu => Self::Silu,
            Activation::GeluTanh => Self::GeluTanh,
            Activation::Sigmoid => Self::Sigmoid,
            Activation::ClampedSilu { alpha, limit } => Self::ClampedSilu { alpha, limit },
        }
    }
}

fn float_type(array: &Array) -> Result<FloatType, Exception> {
    let dtype = array.dtype();
    arrays::float_type(dtype).ok_or_else(|| Exception::custom(format!("no kernel multiplies {dtype:?}")))
}

fn expect(holds: bool, what: &'static str) -> Result<(), Exception> {
    if holds { Ok(()) } else { Err(Exception::custom(format!("a kernel was given no {what}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tuning_is_an_option_and_the_default_is_the_best_instruction_set() {
        for isa in Isa::available() {
            let tuning = KernelTuning::usual(*isa).unwrap();
            assert_eq!(Native::new(Some(tuning), false).unwrap().pool.tuning(), &tuning);
        }
        assert_eq!(Native::new(None, false).unwrap().pool.isa(), Isa::best());
    }
}
