//! Random weights in every storage format.

use std::fmt;

use flash_kernels::{FloatType, Floats, KernelError, Matrix, Mx, Strips};

/// Storage format of weights.
#[derive(Debug, Clone, Copy)]
pub enum Format {
    /// Affine quantization, with f16 scales and biases.
    Affine {
        /// Bits per code.
        bits: u32,
        /// Values per group, which share a scale and a bias.
        group: usize,
    },
    /// Affine quantization, with codes interleaved in strips.
    Strips {
        /// Bits per code.
        bits: u32,
        /// Values per group, which share a scale and a bias.
        group: usize,
        /// The layout of the strips.
        strips: Strips,
    },
    /// Floating-point numbers.
    Float(FloatType),
    /// A microscaling format.
    Mx(Mx),
}

impl Format {
    /// Returns the bytes of weights of `shape`: `[n, k]`.
    pub fn size_bytes(self, [n, k]: [usize; 2]) -> usize {
        let len = n * k;
        match self {
            // Scale and bias take two bytes each.
            Self::Affine { bits, group } | Self::Strips { bits, group, .. } => {
                len / 8 * bits as usize + len / group * 4
            }
            Self::Float(float) => len * float.size_bytes(),
            Self::Mx(mx) => mx.codes_bytes(len) + len / mx.group_size(),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Affine { bits, group } | Self::Strips { bits, group, .. } => write!(f, "q{bits}g{group}"),
            Self::Float(FloatType::F32) => f.write_str("f32"),
            Self::Float(FloatType::F16) => f.write_str("f16"),
            Self::Float(FloatType::BF16) => f.write_str("bf16"),
            Self::Mx(Mx::Fp4) => f.write_str("mxfp4"),
            Self::Mx(Mx::Fp8) => f.write_str("mxfp8"),
            Self::Mx(Mx::Nv4) => f.write_str("nvfp4"),
        }
    }
}

/// Stored random weights `[n, k]`.
#[derive(Debug, Clone)]
pub struct Weights {
    format: Format,
    shape: [usize; 2],
    codes: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
}

/// 2⁻⁶ in f16.
const F16_SCALE: u16 = 9 << 10;
/// −2⁻³ in f16.
const F16_BIAS: u16 = 1 << 15 | 12 << 10;
/// 2⁻⁷ as the exponent of a microscaling format.
const MX_SCALE: u8 = 120;

impl Weights {
    /// Creates weights of `shape`: `[n, k]`, where `k` is a multiple of the group size.
    pub fn new(format: Format, shape: [usize; 2]) -> Self {
        let len = shape[0] * shape[1];
        let floats = |value: u16, n: usize| value.to_le_bytes().repeat(n);
        let (codes, scales, biases) = match format {
            Format::Affine { bits, group } | Format::Strips { bits, group, .. } => {
                let n_groups = len / group;
                // Random codes need no rearrangement into strips.
                let codes = random_bytes(len / 8 * bits as usize);
                (codes, floats(F16_SCALE, n_groups), floats(F16_BIAS, n_groups))
            }
            Format::Float(float) => {
                let mut bytes = vec![0; len * float.size_bytes()];
                let values = activations(len);
                float.encode_into(&values, &mut bytes).unwrap_or_default();
                (bytes, Vec::new(), Vec::new())
            }
            Format::Mx(mx) => {
                let scales = vec![MX_SCALE; len / mx.group_size()];
                (random_bytes(mx.codes_bytes(len)), scales, Vec::new())
            }
        };
        Self { format, shape, codes, scales, biases }
    }

    /// Creates so many copies that, used in turn, each has left all caches before its next use.
    pub fn rotation(format: Format, shape: [usize; 2]) -> Vec<Self> {
        let n_copies = ROTATION_BYTES.div_ceil(format.size_bytes(shape));
        let first = Self::new(format, shape);
        std::iter::repeat_n(first, n_copies).collect()
    }

    /// Returns the view for kernels.
    ///
    /// # Errors
    /// [`KernelError`] if the format does not allow the shape.
    pub fn matrix(&self) -> Result<Matrix<'_>, KernelError> {
        let Self { format, shape, codes, scales, biases } = self;
        match *format {
            Format::Affine { bits, group } => {
                Matrix::affine(*shape, bits, group, codes, FloatType::F16, scales, biases)
            }
            Format::Strips { bits, group, strips } => {
                Matrix::affine(*shape, bits, group, codes, FloatType::F16, scales, biases)?.in_strips(strips)
            }
            Format::Float(float) => Matrix::float(*shape, Floats { float, bytes: codes }),
            Format::Mx(Mx::Fp4) => Matrix::mxfp4(*shape, codes, scales),
            Format::Mx(Mx::Fp8) => Matrix::mxfp8(*shape, codes, scales),
            Format::Mx(Mx::Nv4) => Matrix::nvfp4(*shape, codes, scales),
        }
    }
}

/// Size of a rotation: twice the largest last-level cache of a host of virtual machines (480 MiB).
const ROTATION_BYTES: usize = 1 << 30;

/// Returns `n` activations between −1 and 1.
pub fn activations(n: usize) -> Vec<f32> {
    let mut random = SplitMix(1);
    (0..n).map(|_| (random.next() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn random_bytes(n: usize) -> Vec<u8> {
    let mut random = SplitMix(2);
    (0..n.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).take(n).collect()
}

/// The `SplitMix64` random number generator.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
