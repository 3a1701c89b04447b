//! Instruction sets that both programs are limited to, to measure on one machine what others have.

use clap::ValueEnum;

/// CMake options of processors with AVX2, which implies AVX, but not these.
const AVX2: [&str; 5] =
    ["-DGGML_NATIVE=OFF", "-DGGML_AVX2=ON", "-DGGML_BMI2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON"];

/// Instruction sets of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Instructions {
    /// All that the processor has
    Native,
    /// AVX2, FMA and F16C
    Avx2,
    /// AVX2 and AVX-VNNI
    Avxvnni,
    /// AVX-512 with VNNI, without AMX
    Avx512,
}

impl Instructions {
    /// Returns the value of `FLASH_KERNELS`; none for the default.
    pub fn kernels(self) -> Option<&'static str> {
        match self {
            Self::Native => None,
            Self::Avx2 => Some("avx2"),
            Self::Avxvnni => Some("avxvnni"),
            Self::Avx512 => Some("avx512"),
        }
    }

    /// Returns the CMake options of llama.cpp.
    pub fn cmake_options(self) -> Vec<&'static str> {
        let more: &[&str] = match self {
            Self::Native => return vec!["-DGGML_NATIVE=ON"],
            Self::Avx2 => &[],
            Self::Avxvnni => &["-DGGML_AVX_VNNI=ON"],
            Self::Avx512 => &["-DGGML_AVX512=ON", "-DGGML_AVX512_VBMI=ON", "-DGGML_AVX512_VNNI=ON"],
        };
        [&AVX2, more].concat()
    }
}
