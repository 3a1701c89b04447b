//! Random weights with known values, and reference products.

#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses its part")]

use std::num::NonZeroUsize;

use flash_kernels::{FloatType, Floats, Isa, KernelError, Matrix, Mx, Pool, Strips};

/// Weight formats under test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Format {
    Affine { bits: u32, group: usize, float: FloatType },
    Float(FloatType),
    Mx(Mx),
}

pub(crate) const FLOATS: [FloatType; 3] = [FloatType::F32, FloatType::F16, FloatType::BF16];

pub(crate) fn all_formats() -> Vec<Format> {
    let mut formats: Vec<Format> = FLOATS.map(Format::Float).to_vec();
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in [32, 64, 128] {
            formats.extend(FLOATS.map(|float| Format::Affine { bits, group, float }));
        }
    }
    formats.extend([Mx::Fp4, Mx::Fp8, Mx::Nv4].map(Format::Mx));
    formats
}

impl Format {
    /// Returns the number that `k` must be a multiple of.
    pub(crate) fn group(self) -> usize {
        match self {
            Self::Affine { group, .. } => group,
            Self::Float(_) => 1,
            Self::Mx(mx) => mx.group_size(),
        }
    }

    /// Whether the contribution of each group is exact, whatever the instruction set.
    pub(crate) fn is_exact(self) -> bool {
        matches!(self, Self::Affine { .. } | Self::Mx(Mx::Fp4))
    }
}

/// A pseudo-random generator (`SplitMix64`).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform between −1 and 1.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Roughly normal, with a variance of about 1.
    pub(crate) fn normal(&mut self) -> f32 {
        (0..4).map(|_| self.unit()).sum::<f32>() * 0.87
    }

    pub(crate) fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.normal()).collect()
    }
}

/// Stored weights, each slice at some offset in its buffer.
#[derive(Clone)]
pub(crate) struct Weights {
    pub(crate) format: Format,
    pub(crate) shape: [usize; 2],
    /// Offsets of codes, scales and biases.
    offsets: [usize; 3],
    codes: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
    /// The decoded weights.
    pub(crate) values: Vec<f64>,
}

fn stored(float: FloatType, values: &[f32], offset: usize) -> (Vec<u8>, Vec<f32>) {
    let mut bytes = vec![0xAA; offset + values.len() * float.size_bytes()];
    float.encode_into(values, &mut bytes[offset..]).unwrap();
    (bytes, values.iter().map(|value| float.round(*value)).collect())
}

impl Weights {
    /// Creates random weights, with codes at `offset` in their buffer, and scales and biases at other offsets.
    pub(crate) fn new(format: Format, shape: [usize; 2], offset: usize, seed: u64) -> Self {
        let offsets = [offset, 3 * offset % 8, (5 * offset + 2) % 8];
        let mut random = Random(seed);
        let [n, k] = shape;
        match format {
            Format::Float(float) => {
                let (codes, values) = stored(float, &random.vec(n * k), offsets[0]);
                let values = values.into_iter().map(f64::from).collect();
                Self { format, shape, offsets, codes, scales: Vec::new(), biases: Vec::new(), values }
            }
            Format::Mx(mx) => {
                let mut bytes = |offset: usize, len: usize, byte: fn(u64) -> u8| -> Vec<u8> {
                    let random = (0..len).map(|_| byte(random.bits()));
                    std::iter::repeat_n(0xAA, offset).chain(random).collect()
                };
                let codes = bytes(offsets[0], mx.codes_bytes(n * k), |bits| bits as u8);
                // Powers of two from 2⁻⁷ to 1.
                let scales = bytes(offsets[1], n * k / mx.group_size(), |bits| 120 + (bits % 8) as u8);
                let mut values = vec![0.0; n * k];
                mx.dequantize_row(&codes[offsets[0]..], &scales[offsets[1]..], &mut values).unwrap();
                let values = values.into_iter().map(f64::from).collect();
                Self { format, shape, offsets, codes, scales, biases: Vec::new(), values }
            }
            Format::Affine { bits, group, float } => {
                let n_groups = n * k / group;
                // As quantisers choose them: zero is near the middle of the codes.
                let scales: Vec<f32> = (0..n_groups).map(|_| random.unit() * 0.02 + 0.03).collect();
                let middle = f32::from(1_u16 << (bits - 1));
                let biases: Vec<f32> = scales.iter().map(|s| -s * (middle + random.unit())).collect();
                let (scales, scale_values) = stored(float, &scales, offsets[1]);
                let (biases, bias_values) = stored(float, &biases, offsets[2]);
                let codes: Vec<u64> = (0..n * k).map(|_| random.bits() & ((1 << bits) - 1)).collect();
                let values = codes.iter().enumerate().map(|(idx, code)| {
                    f64::from(scale_values[idx / group]) * *code as f64 + f64::from(bias_values[idx / group])
                });
                let values = values.collect();
                let mut bytes = vec![0xAA; offsets[0]];
                // Pack the codes from the lowest bit up.
                let (mut window, mut window_bits) = (0_u64, 0);
                for code in codes {
                    window |= code << window_bits;
                    window_bits += bits;
                    while window_bits >= 8 {
                        bytes.push(window as u8);
                        window >>= 8;
                        window_bits -= 8;
                    }
                }
                Self { format, shape, offsets, codes: bytes, scales, biases, values }
            }
        }
    }

    /// Creates affine weights whose codes are all the largest.
    pub(crate) fn of_greatest_codes(bits: u32, group: usize, shape: [usize; 2]) -> Self {
        let mut weights = Self::new(Format::Affine { bits, group, float: FloatType::F32 }, shape, 0, 1);
        weights.codes.fill(0xFF);
        let floats = |bytes: &[u8]| {
            let mut values = vec![0.0; bytes.len() / 4];
            FloatType::F32.decode_into(bytes, &mut values).unwrap();
            values
        };
        let [_, scales_at, biases_at] = weights.offsets;
        let (scales, biases) = (floats(&weights.scales[scales_at..]), floats(&weights.biases[biases_at..]));
        let code = f64::from((1 << bits) - 1);
        for (idx, value) in weights.values.iter_mut().enumerate() {
            *value = code * f64::from(scales[idx / group]) + f64::from(biases[idx / group]);
        }
        weights
    }

    pub(crate) fn matrix(&self) -> Matrix<'_> {
        let [codes, scales, biases] = [(&self.codes, 0), (&self.scales, 1), (&self.biases, 2)]
            .map(|(bytes, idx)| bytes.get(self.offsets[idx]..).unwrap_or_default());
        match self.format {
            Format::Float(float) => Matrix::float(self.shape, Floats { float, bytes: codes }),
            Format::Affine { bits, group, float } => {
                Matrix::affine(self.shape, bits, group, codes, float, scales, biases)
            }
            Format::Mx(Mx::Fp4) => Matrix::mxfp4(self.shape, codes, scales),
            Format::Mx(Mx::Fp8) => Matrix::mxfp8(self.shape, codes, scales),
            Format::Mx(Mx::Nv4) => Matrix::nvfp4(self.shape, codes, scales),
        }
        .unwrap()
    }

    /// Returns the weights in strips, for [`Matrix::in_strips`].
    pub(crate) fn rearranged(&self, strips: Strips) -> Self {
        let mut weights = self.clone();
        let codes = &mut weights.codes[self.offsets[0]..];
        let row_bytes = codes.len() / self.shape[0];
        strips.interleave(codes, row_bytes);
        if let Format::Affine { group, float, .. } = self.format {
            let row_bytes = self.shape[1] / group * float.size_bytes();
            strips.interleave_floats(float, &mut weights.scales[self.offsets[1]..], row_bytes);
            strips.interleave_floats(float, &mut weights.biases[self.offsets[2]..], row_bytes);
        }
        weights
    }

    /// Makes the first weight of a row, or the scale of its group, NaN or infinite.
    pub(crate) fn corrupt(&mut self, row_idx: usize) {
        let k = self.shape[1];
        match self.format {
            Format::Float(float) => {
                let at = self.offsets[0] + row_idx * k * float.size_bytes();
                float.encode_into(&[f32::NAN], &mut self.codes[at..][..float.size_bytes()]).unwrap();
            }
            Format::Affine { group, float, .. } => {
                let at = self.offsets[1] + row_idx * (k / group) * float.size_bytes();
                float.encode_into(&[f32::NAN], &mut self.scales[at..][..float.size_bytes()]).unwrap();
            }
            // nvfp4 has no code or scale that is NaN or infinite.
            Format::Mx(Mx::Nv4) => panic!("nvfp4 cannot be corrupted"),
            Format::Mx(mx) => self.scales[self.offsets[1] + row_idx * (k / mx.group_size())] = 255,
        }
    }

    /// Returns `x · Wᵀ` and the sums of the products' magnitudes.
    pub(crate) fn reference(&self, x: &[f32]) -> Vec<(f64, f64)> {
        let [n, k] = self.shape;
        let mut out = Vec::new();
        for x in x.chunks_exact(k) {
            for w in self.values.chunks_exact(k).take(n) {
                let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * w);
                out.push(products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs())));
            }
        }
        out
    }

    /// Maximum error relative to the sum of the products' magnitudes.
    pub(crate) fn tolerance(&self) -> f64 {
        if self.format.is_exact() { 2f64.powi(-14) } else { 2f64.powi(-20) * (self.shape[1] as f64).sqrt() }
    }
}

pub(crate) fn pool(n_threads: usize, isa: Isa) -> Pool {
    Pool::with_isa(NonZeroUsize::new(n_threads).unwrap(), isa).unwrap()
}

pub(crate) fn matmul(pool: &Pool, x: &[f32], weights: &Weights) -> Result<Vec<f32>, KernelError> {
    let [n, k] = weights.shape;
    let mut y = vec![f32::NAN; x.len() / k * n];
    flash_kernels::matmul(pool, x, &weights.matrix(), None, &mut y)?;
    Ok(y)
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
