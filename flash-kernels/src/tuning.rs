//! Tunings: how kernels use the cores and the memory of a machine.

mod measure;

use std::num::NonZeroUsize;

use crate::error::KernelError;
use crate::isa::{Isa, Kernels};
use crate::pool::cores;
use crate::prefetch::Prefetch;

/// Threads of a [`Pool`](crate::Pool), and the choices of its kernels that depend on the machine. Products have the same
/// bits with every tuning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KernelTuning {
    /// Instruction set.
    pub isa: Isa,
    /// Threads, including the one that calls kernels.
    pub n_threads: NonZeroUsize,
    /// Prefetching policy of products of few rows.
    pub prefetch: Prefetch,
    /// Whether layers that stay in memory store codes of 4 bits in [strips](crate::Strips).
    pub strips_4_bits: bool,
    /// Whether they store codes of 8 bits in strips.
    pub strips_8_bits: bool,
}

impl KernelTuning {
    /// Returns the tuning that is best on most machines with these instructions, without measuring: one thread for each
    /// physical core within the affinity mask of this thread and the CPU quota of the control group. Hardware threads of
    /// one core share arithmetic units and count once.
    ///
    /// # Errors
    /// [`KernelError::Isa`] if [`Isa::available`] does not list `isa`.
    pub fn usual(isa: Isa) -> Result<Self, KernelError> {
        Ok(Self::of_kernels(isa, isa.kernels()?))
    }

    /// Returns the [usual](Self::usual) tuning of `kernels`, those of `isa`.
    pub(crate) fn of_kernels(isa: Isa, kernels: &Kernels) -> Self {
        let [strips_4_bits, strips_8_bits] = [4, 8].map(|bits| kernels.strips_bits.contains(&bits));
        Self { isa, n_threads: cores::usable(), prefetch: isa.prefetch(), strips_4_bits, strips_8_bits }
    }

    /// Measures products of few rows of activations, and returns the fastest tuning: the [usual](Self::usual) one, except
    /// where another choice is faster by more than noise.
    ///
    /// Takes about a quarter of a second, and 9 MiB of memory; nothing if there is no choice. The machine should be idle.
    ///
    /// # Errors
    /// See [`usual`](Self::usual).
    pub fn measure(isa: Isa) -> Result<Self, KernelError> {
        measure::fastest(Self::usual(isa)?)
    }

    /// Returns whether affine codes of `bits` are stored in strips.
    pub(crate) fn uses_strips(&self, bits: u32) -> bool {
        match bits {
            4 => self.strips_4_bits,
            8 => self.strips_8_bits,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pool;

    #[test]
    fn the_usual_tuning_is_that_of_a_pool_for_the_machine() {
        for isa in Isa::available() {
            let pool = Pool::for_machine(*isa).unwrap();
            assert_eq!(pool.tuning(), &KernelTuning::usual(*isa).unwrap());
            assert_eq!(pool.isa(), *isa);
        }
    }

    #[test]
    fn a_measured_tuning_is_one_of_the_choices() {
        for isa in Isa::available() {
            let kernels = isa.kernels().unwrap();
            let tuning = KernelTuning::measure(*isa).unwrap();
            assert_eq!(tuning.isa, *isa);
            assert!(kernels.prefetches.contains(&tuning.prefetch), "{tuning:?}");
            assert!(cores::choices().contains(&tuning.n_threads), "{tuning:?}");
            assert!(
                kernels.strips.is_some() || !(tuning.strips_4_bits || tuning.strips_8_bits),
                "{tuning:?}"
            );
            assert!(Pool::new(tuning).is_ok());
        }
    }

    #[test]
    fn an_instruction_set_of_other_machines_has_no_tuning() {
        let other = if cfg!(target_arch = "aarch64") { Isa::Avx2 } else { Isa::Neon };
        assert!(matches!(KernelTuning::usual(other), Err(KernelError::Isa { .. })));
        assert!(matches!(KernelTuning::measure(other), Err(KernelError::Isa { .. })));
    }
}
