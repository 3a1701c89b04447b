//! Instruction sets and their kernel tables.

/// Builds a table of kernels that require CPU features: a complete one, or one that overrides some entries of another.
#[cfg(target_arch = "x86_64")]
macro_rules! kernels {
    (
        rows_direct: $rows_direct:expr;
        prefetches: $prefetches:expr;
        strips: $strips:expr, $strips_bits:expr;
        $($kernel:ident: $function:path, $arguments:tt;)*
    ) => {
        Kernels {
            rows_direct: $rows_direct,
            prefetch: Prefetch::Near,
            prefetches: &$prefetches,
            strips: Some($strips),
            strips_bits: &$strips_bits,
            $($kernel: kernel!($function, $arguments),)*
        }
    };
    (..$others:path; $($kernel:ident: $function:path, $arguments:tt;)*) => {
        Kernels { $($kernel: kernel!($function, $arguments),)* ..$others }
    };
}

#[cfg(target_arch = "x86_64")]
macro_rules! kernel {
    ($function:path, ($($argument:ident),*)) => {
        |$($argument),*| {
            #[expect(unsafe_code, reason = "the function requires CPU features")]
            // SAFETY: `Isa::kernels` returns this table only if `is_available` holds.
            unsafe { $function($($argument),*) }
        }
    };
}

/// Compiles functions in plain Rust with CPU features that the build does not assume.
#[cfg(target_arch = "x86_64")]
macro_rules! compiled_for {
    ($features:literal: $(fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)? = $function:path;)*) => {
        $(
            #[target_feature(enable = $features)]
            fn $name($($argument: $type),*) $(-> $result)? {
                $function($($argument),*)
            }
        )*
    };
}

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
#[cfg(test)]
mod emulated_tests;
#[cfg(any(target_arch = "aarch64", test))]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use crate::activations::{FixedRows, FixedVector, Plane, ROW_TILE, RowPairs, Terms};
use crate::affine_tile::AffineTile;
use crate::attention::Dequantize;
use crate::chains::Link;
use crate::elementwise::Gate;
use crate::error::KernelError;
use crate::prefetch::Prefetch;
use crate::recurrent::{DeltaStep, SelectiveStep};
use crate::strips::Strips;
use crate::tile::{CodeBits, CodePanel, CodeRows, FloatRows, GroupLanes, LaneRows, Lanes};
use crate::widen::NarrowFormat;

/// An instruction set with its own kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust, available on every machine.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// AVX2 with AVX-VNNI: dot products of bytes.
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
    /// AVX-512 with AMX for bytes and `bf16`: a matrix unit.
    Amx,
    /// `AArch64` NEON, available on every such processor.
    Neon,
    /// NEON with dot products of bytes.
    NeonDotProd,
    /// NEON with products of matrices of bytes.
    NeonI8mm,
}

impl Isa {
    /// Returns the instruction sets of this machine, the best last.
    pub fn available() -> &'static [Self] {
        static AVAILABLE: OnceLock<Vec<Isa>> = OnceLock::new();
        AVAILABLE.get_or_init(|| {
            let mut isas = vec![Self::Portable];
            #[cfg(target_arch = "x86_64")]
            if avx2::is_available() {
                isas.push(Self::Avx2);
            }
            #[cfg(target_arch = "x86_64")]
            if avxvnni::is_available() {
                isas.push(Self::AvxVnni);
            }
            #[cfg(target_arch = "x86_64")]
            if avx512::is_available() {
                isas.push(Self::Avx512);
            }
            #[cfg(target_arch = "x86_64")]
            if amx::is_available() {
                isas.push(Self::Amx);
            }
            #[cfg(target_arch = "aarch64")]
            if neon::is_available() {
                isas.push(Self::Neon);
            }
            #[cfg(target_arch = "aarch64")]
            if neon::has_dotprod() {
                isas.push(Self::NeonDotProd);
            }
            #[cfg(target_arch = "aarch64")]
            if neon::has_i8mm() {
                isas.push(Self::NeonI8mm);
            }
            isas
        })
    }

    /// Returns the best instruction set of this machine.
    pub fn best() -> Self {
        Self::available().last().copied().unwrap_or(Self::Portable)
    }

    /// Returns the name that [`FromStr`] parses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
            Self::Neon => "neon",
            Self::NeonDotProd => "neon-dotprod",
            Self::NeonI8mm => "neon-i8mm",
        }
    }

    /// Returns the prefetching policy that is best on most machines.
    pub(crate) fn prefetch(self) -> Prefetch {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Amx => avx512::prefetch_of_processor(),
            _ => Prefetch::Near,
        }
    }

    /// Returns the kernels if this machine can run them.
    pub(crate) fn kernels(self) -> Result<&'static Kernels, KernelError> {
        match self {
            _ if !Self::available().contains(&self) => Err(unavailable(self.name().to_owned())),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Ok(&avx2::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => Ok(&avxvnni::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Ok(&avx512::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Ok(&amx::KERNELS),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => Ok(&neon::KERNELS),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotProd => Ok(&neon::DOTPROD_KERNELS),
            #[cfg(target_arch = "aarch64")]
            Self::NeonI8mm => Ok(&neon::I8MM_KERNELS),
            _ => Ok(&portable::KERNELS),
        }
    }
}

/// Parses the name of an instruction set that this machine has.
///
/// # Errors
/// [`KernelError::Isa`] for any other name.
impl FromStr for Isa {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        let found = Self::available().iter().copied().find(|isa| name == isa.name());
        found.ok_or_else(|| unavailable(name.to_owned()))
    }
}

fn unavailable(wanted: String) -> KernelError {
    let names: Vec<_> = Isa::available().iter().map(|isa| isa.name()).collect();
    KernelError::Isa { wanted, available: names.join(", ") }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Kernel table of one instruction set.
///
/// There are two ways to compute a product, with the same bits. Few rows of activations are multiplied with the weights
/// as stored (`multiply_codes`, `multiply_floats`). For many rows, a panel of weights is unpacked once for all of them
/// (`unpack_codes` and `multiply_panel`, `decode` and `multiply_lanes`).
#[derive(Debug, Clone)]
pub(crate) struct Kernels {
    /// Rows of activations up to which `multiply_codes` is faster than `multiply_panel`.
    pub(crate) rows_direct: usize,

    /// Policy of the tiles that are given to `multiply_codes`.
    pub(crate) prefetch: Prefetch,

    /// Policies that `multiply_codes` follows.
    pub(crate) prefetches: &'static [Prefetch],

    /// Strips that `multiply_codes` and `unpack_codes` read as well as rows.
    pub(crate) strips: Option<Strips>,

    /// Code widths that `multiply_codes` reads faster in strips than in rows on most machines.
    pub(crate) strips_bits: &'static [u32],

    /// [`quantize_group`](crate::activations::quantize_group).
    pub(crate) quantize_group: fn(values: &[f32], codes: &mut [i16], terms: &mut Terms) -> bool,

    /// [`row_pairs`](crate::activations::row_pairs).
    pub(crate) row_pairs: fn(bits: CodeBits, group: usize) -> usize,

    /// [`pack_rows`](crate::activations::pack_rows), in the order that `multiply_panel` expects.
    pub(crate) pack_rows:
        fn(bits: CodeBits, codes: &[i16], pairs: &mut [RowPairs], cross: &mut [i32; ROW_TILE]),

    /// Arranges whole lines of codes in the order in which `multiply_codes` reads them.
    pub(crate) arrange: fn(bits: CodeBits, codes: &[i16]) -> Vec<Plane>,

    /// [`widen`](crate::widen::widen).
    pub(crate) widen: fn(narrow: NarrowFormat<'_>, codes: &[u8], out: &mut [u8]),

    /// Decodes the columns `columns` of the rows, one element of `out` per column.
    pub(crate) decode: fn(rows: FloatRows<'_>, columns: Range<usize>, out: &mut [Lanes]),

    /// Adds to each element of `acc` the dot products of a row of activations with the rows of the tile.
    pub(crate) multiply_codes: fn(tile: &AffineTile<'_>, x: &[Arc<FixedVector>], acc: &mut [Lanes]),

    /// Unpacks the groups of `links`.
    pub(crate) unpack_codes: fn(rows: CodeRows<'_>, links: &[Link], panel: &mut CodePanel),

    /// Adds to `sums` the products of the groups `links` of `x` with the panel, which holds just these groups; `scales`
    /// holds all. `sums` has one element for each row of `x`, rounded up to a multiple of
    /// [`ROW_STEP`](crate::activations::ROW_STEP).
    pub(crate) multiply_panel:
        fn(panel: &CodePanel, links: Range<usize>, scales: &GroupLanes, x: &FixedRows, sums: Sums<'_>),

    /// Adds to `acc` the dot products of `x` with the rows.
    pub(crate) multiply_floats: fn(rows: FloatRows<'_>, x: &[f32], acc: &mut Lanes),

    /// Adds to `acc` the products of the columns of `x` from `column_start` on with decoded weights, one row per
    /// column.
    pub(crate) multiply_lanes:
        fn(weights: LaneRows<'_>, column_start: usize, x: FloatInput<'_>, acc: &mut [Lanes]),

    /// [`rms_norm_row`](crate::elementwise::rms_norm_row).
    pub(crate) rms_norm: fn(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]),

    /// [`gate_slice`](crate::elementwise::gate_slice).
    pub(crate) gate: fn(kind: Gate, gate: &[f32], up: &[f32], out: &mut [f32]),

    /// [`softmax_numerators`](crate::elementwise::softmax_numerators).
    pub(crate) softmax_numerators: fn(scores: &mut [f32]) -> (f32, f32),

    /// [`axpby`](crate::attention::axpby).
    pub(crate) axpby: fn(values: &mut [f32], old: f32, next: &[f32], new: f32),

    /// [`convolve_row`](crate::recurrent::convolve_row).
    pub(crate) convolve: fn(x: &[f32], weights: &[f32], out: &mut [f32]),

    /// [`selective_step`](crate::recurrent::selective_step).
    pub(crate) selective_step: SelectiveStep,

    /// [`delta_step`](crate::recurrent::delta_step).
    pub(crate) delta_step: DeltaStep,

    /// [`dequantize`](crate::attention::dequantize).
    pub(crate) dequantize: Dequantize,
}

/// Accumulators of [`multiply_panel`](Kernels::multiply_panel), one element per row of activations.
#[derive(Debug)]
pub(crate) struct Sums<'a> {
    /// Sum of the current chain so far.
    pub(crate) chain: &'a mut [Lanes],
    /// Sum of the finished chains.
    pub(crate) acc: &'a mut [Lanes],
}

/// Activations as `f32`: `[m, k]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FloatInput<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) k: usize,
}

impl<'a> FloatInput<'a> {
    /// Returns `columns` of `M` rows from `row_idx` on. Without a closure, since closures are not inlined into
    /// functions with target features.
    #[inline(always)]
    pub(crate) fn rows<const M: usize>(self, row_idx: usize, columns: Range<usize>) -> [&'a [f32]; M] {
        let mut rows: [&[f32]; M] = [&[]; M];
        for (at, row) in rows.iter_mut().enumerate() {
            *row = &self.values[(row_idx + at) * self.k..][columns.clone()];
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_instruction_set_comes_last_and_names_differ() {
        let available = Isa::available();
        assert_eq!(available[0], Isa::Portable);
        for (idx, isa) in available.iter().enumerate() {
            assert!(available[..idx].iter().all(|other| other.name() != isa.name()));
            assert!(isa.kernels().is_ok());
        }
    }

    /// `cargo xtask check-arm` names those of its emulated processor. Tests of all available instruction sets would pass
    /// without them.
    #[test]
    fn instruction_sets_that_the_environment_requires_are_available() {
        let required = std::env::var("FLASH_REQUIRE_INSTRUCTION_SETS").unwrap_or_default();
        for name in required.split_terminator(',') {
            assert!(name.parse::<Isa>().is_ok(), "{name} is not in {:?}", Isa::available());
        }
    }

    #[test]
    fn a_name_is_parsed_to_its_instruction_set() {
        for isa in Isa::available() {
            assert_eq!(isa.name().parse(), Ok(*isa));
        }
        assert_eq!(Isa::best(), *Isa::available().last().unwrap());
    }

    #[test]
    fn an_unknown_name_is_an_error_that_lists_the_known_ones() {
        for wanted in ["avx1024", "AVX2", "portable ", ""] {
            let error = wanted.parse::<Isa>().unwrap_err().to_string();
            assert!(error.starts_with(wanted), "{error}");
            assert!(Isa::available().iter().all(|isa| error.contains(isa.name())), "{error}");
        }
    }

    #[test]
    fn an_instruction_set_of_other_machines_is_an_error() {
        let other = if cfg!(target_arch = "aarch64") { Isa::Avx2 } else { Isa::Neon };
        assert!(matches!(other.kernels(), Err(KernelError::Isa { .. })));
        assert!(other.name().parse::<Isa>().is_err());
    }
}
