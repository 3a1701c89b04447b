//! ggml block formats: dequantization to `f32`, and lossless repacking to MLX's affine format.
//!
//! Source of the layouts: `ggml-common.h` and `ggml-quants.c` of the ggml project.
//!
//! All quantized formats except `Q6_K` consist of groups of 32 codes with one scale and either a bias or a zero point.
//! That is MLX's affine format with groups of 32, so these blocks can be repacked exactly: scales and biases of the
//! legacy formats are `f16`, and those of the K-formats are products of an `f16` and a 6-bit integer, which `f32`
//! represents exactly, like every product with a code.

use flash_kernels::{Affine, FloatType};

use super::kind::GgmlType;

/// Group size of all quantized formats except `Q6_K`.
const GROUP_LEN: usize = 32;

/// Storage format of a ggml type that can be converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are ggml's")]
pub enum BlockFormat {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// Error of repacking blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepackError {
    /// The scale or bias of a group is infinite or NaN.
    NotFinite {
        /// Index of the group of 32 values, from the first block given.
        group_idx: usize,
    },
    /// The bias of a group overflows `f16`, but not `f32`.
    BiasOverflowsF16 {
        /// Index of the group of 32 values, from the first block given.
        group_idx: usize,
    },
}

/// A decoded group of 32 codes: `value = scale · (code - zero) + bias`, where `zero` or `bias` is 0.
struct Group {
    codes: [u8; GROUP_LEN],
    scale: f32,
    zero: u8,
    bias: f32,
}

impl BlockFormat {
    /// Returns the format of a ggml type, if it can be converted.
    pub fn of(kind: GgmlType) -> Option<Self> {
        Some(match kind.name() {
            "F32" => Self::F32,
            "F16" => Self::F16,
            "BF16" => Self::BF16,
            "Q4_0" => Self::Q4_0,
            "Q4_1" => Self::Q4_1,
            "Q5_0" => Self::Q5_0,
            "Q5_1" => Self::Q5_1,
            "Q8_0" => Self::Q8_0,
            "Q4_K" => Self::Q4K,
            "Q5_K" => Self::Q5K,
            "Q6_K" => Self::Q6K,
            _ => return None,
        })
    }

    /// Names of the types that can be converted, for messages.
    pub const KNOWN: &'static str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K";

    /// Returns the number of values in a block.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Returns the size of a block in bytes.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Returns the size in bytes of `n_values` values, which must fill whole blocks.
    pub const fn bytes(self, n_values: u64) -> u64 {
        n_values / self.block_len() as u64 * self.block_bytes() as u64
    }

    /// Returns the float type of an unquantized format.
    pub const fn float(self) -> Option<FloatType> {
        match self {
            Self::F32 => Some(FloatType::F32),
            Self::F16 => Some(FloatType::F16),
            Self::BF16 => Some(FloatType::BF16),
            _ => None,
        }
    }

    /// Returns the bit width of the affine codes that represent this format losslessly, and the narrowest float type
    /// that does so for the scales (and for the biases unless they overflow). `None` for floats and for `Q6_K`, whose
    /// groups of 16 are smaller than MLX supports.
    pub const fn affine(self) -> Option<(u32, FloatType)> {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::Q6K => None,
            Self::Q4_0 | Self::Q4_1 => Some((4, FloatType::F16)),
            Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => Some((8, FloatType::F16)),
            Self::Q4K => Some((4, FloatType::F32)),
            Self::Q5K => Some((8, FloatType::F32)),
        }
    }

    /// Dequantizes `blocks` into `out`, equal bit for bit to `gguf.quants.dequantize` of the Python package gguf.
    ///
    /// # Panics
    /// If `blocks` is not a whole number of blocks, or `out` has a different number of values.
    pub fn dequantize(self, blocks: &[u8], out: &mut [f32]) {
        self.check(blocks, out.len());
        let each = |decode: fn(&[u8], &mut [f32]), blocks: &[u8], out: &mut [f32]| {
            let blocks = blocks.chunks_exact(self.block_bytes());
            for (block, out) in blocks.zip(out.chunks_exact_mut(self.block_len())) {
                decode(block, out);
            }
        };
        match self {
            Self::F32 => each(|b, out| out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]), blocks, out),
            Self::F16 => each(|b, out| out[0] = f16_at(b, 0), blocks, out),
            Self::BF16 => each(|b, out| out[0] = f32::from_le_bytes([0, 0, b[0], b[1]]), blocks, out),
            Self::Q6K => each(q6_k, blocks, out),
            _ => self.each_group(blocks, |group_idx, group| {
                let out = &mut out[group_idx * GROUP_LEN..][..GROUP_LEN];
                let zero = f32::from(group.zero);
                for (out, code) in out.iter_mut().zip(group.codes) {
                    // As in the reference, the product is exact and the sum rounds once. A bias of 0 must not be
                    // added to a zero-point format, which would turn -0 into 0.
                    let product = group.scale * (f32::from(code) - zero);
                    *out = if group.zero == 0 { product + group.bias } else { product };
                }
            }),
        }
    }

    /// Repacks `blocks` into affine codes, scales and biases of exactly the same values (groups of 32, scales and
    /// biases of type `float`).
    ///
    /// # Errors
    /// [`RepackError`]; the slices then hold the groups before the failing one.
    ///
    /// # Panics
    /// If the format has no [`affine`](Self::affine) form, or a slice has the wrong length.
    pub fn repack(
        self,
        blocks: &[u8],
        float: FloatType,
        codes: &mut [u8],
        scales: &mut [u8],
        biases: &mut [u8],
    ) -> Result<(), RepackError> {
        let (bits, _) = self.affine().expect("a format with an affine form");
        let affine = Affine::new(bits, GROUP_LEN).expect("a supported bit width and group size");
        let codes_bytes = affine.codes_bytes(GROUP_LEN);
        self.check(blocks, codes.len() / codes_bytes * GROUP_LEN);
        let size = float.size_bytes();
        let mut failed = Ok(());
        self.each_group(blocks, |group_idx, group| {
            if failed.is_ok() {
                let bias = if group.zero == 0 { group.bias } else { -f32::from(group.zero) * group.scale };
                if !(group.scale.is_finite() && bias.is_finite()) {
                    failed = Err(RepackError::NotFinite { group_idx });
                } else if !float.round(bias).is_finite() {
                    failed = Err(RepackError::BiasOverflowsF16 { group_idx });
                } else {
                    let fits = "slices that fit the blocks";
                    let codes = &mut codes[group_idx * codes_bytes..][..codes_bytes];
                    affine.pack(&group.codes, codes).expect(fits);
                    let at = group_idx * size..(group_idx + 1) * size;
                    float.encode_into(&[group.scale], &mut scales[at.clone()]).expect(fits);
                    float.encode_into(&[bias], &mut biases[at]).expect(fits);
                }
            }
        });
        failed
    }

    /// Asserts that `blocks` holds exactly `n_values` values.
    fn check(self, blocks: &[u8], n_values: usize) {
        assert!(
            n_values.is_multiple_of(self.block_len())
                && n_values / self.block_len() * self.block_bytes() == blocks.len(),
            "{self:?}: {n_values} values in {} B of blocks",
            blocks.len(),
        );
    }

    /// Calls `each` with the index and contents of every group of 32, in order.
    fn each_group(self, blocks: &[u8], mut each: impl FnMut(usize, Group)) {
        let groups_per_block = self.block_len() / GROUP_LEN;
        for (block_idx, block) in blocks.chunks_exact(self.block_bytes()).enumerate() {
            for idx in 0..groups_per_block {
                each(block_idx * groups_per_block + idx, self.group(block, idx));
            }
        }
    }

    /// Decodes group `idx` of one block.
    fn group(self, block: &[u8], idx: usize) -> Group {
        let scale = f16_at(block, 0);
        match self {
            Self::Q4_0 => Group { codes: nibbles(&block[2..18]), scale, zero: 8, bias: 0.0 },
            Self::Q4_1 => Group { codes: nibbles(&block[4..20]), scale, zero: 0, bias: f16_at(block, 2) },
            Self::Q5_0 => Group {
                codes: with_fifth_bit(nibbles(&block[6..22]), &block[2..6]),
                scale,
                zero: 16,
                bias: 0.0,
            },
            Self::Q5_1 => Group {
                codes: with_fifth_bit(nibbles(&block[8..24]), &block[4..8]),
                scale,
                zero: 0,
                bias: f16_at(block, 2),
            },
            Self::Q8_0 => Group {
                // Two's complement and offset binary differ only in the sign bit.
                codes: std::array::from_fn(|i| block[2 + i] ^ 0x80),
                scale,
                zero: 128,
                bias: 0.0,
            },
            Self::Q4K => k_group(block, idx, None, &block[16..144]),
            Self::Q5K => k_group(block, idx, Some(&block[16..48]), &block[48..176]),
            Self::F32 | Self::F16 | Self::BF16 | Self::Q6K => {
                unreachable!("{self:?} has no groups of 32")
            }
        }
    }
}

fn f16_at(bytes: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Unpacks 16 bytes: the low nibbles are the first 16 codes, the high nibbles the others.
fn nibbles(bytes: &[u8]) -> [u8; GROUP_LEN] {
    std::array::from_fn(|i| (bytes[i % 16] >> (i / 16 * 4)) & 15)
}

/// Sets the fifth bit of code `i` to bit `i` of `high`.
fn with_fifth_bit(mut codes: [u8; GROUP_LEN], high: &[u8]) -> [u8; GROUP_LEN] {
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= ((high[i / 8] >> (i % 8)) & 1) << 4;
    }
    codes
}

/// Decodes group `idx` (0 to 7) of a `Q4_K` or `Q5_K` block.
///
/// Layout: two `f16` (scale and minimum of the block), 12 bytes with a 6-bit scale and minimum for each group, for
/// `Q5_K` the fifth bits (bit `idx` of each of 32 bytes), then the low nibbles of the codes, two groups in 32 bytes.
fn k_group(block: &[u8], idx: usize, fifth_bits: Option<&[u8]>, codes: &[u8]) -> Group {
    let packed = &block[4..16];
    let (scale, min) = if idx < 4 {
        (packed[idx] & 63, packed[idx + 4] & 63)
    } else {
        let low = packed[idx + 4];
        (low & 15 | packed[idx - 4] >> 6 << 4, low >> 4 | packed[idx] >> 6 << 4)
    };
    let low = &codes[idx / 2 * 32..][..32];
    Group {
        codes: std::array::from_fn(|i| {
            let code = (low[i] >> (idx % 2 * 4)) & 15;
            let fifth = fifth_bits.map_or(0, |bits| (bits[i] >> idx) & 1);
            code | fifth << 4
        }),
        scale: f16_at(block, 0) * f32::from(scale),
        zero: 0,
        bias: -(f16_at(block, 2) * f32::from(min)),
    }
}

/// Dequantizes a `Q6_K` block.
///
/// Layout: 128 bytes of low nibbles, 64 of upper two bits, 16 signed 8-bit scales (one for 16 values), and the block's
/// `f16` scale. Each half of the block has its 128 values in four runs of 32.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let scale = f16_at(block, 208);
    for (i, out) in out.iter_mut().enumerate() {
        let (half, run, at) = (i / 128, i % 128 / 32, i % 32);
        let low = (block[half * 64 + run % 2 * 32 + at] >> (run / 2 * 4)) & 15;
        let high = (block[128 + half * 32 + at] >> (run * 2)) & 3;
        let code = f32::from(low | high << 4) - 32.0;
        *out = scale * f32::from(block[192 + i / 16].cast_signed()) * code;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_agree_with_the_table_of_ggml_types() {
        let mut n_known = 0;
        for kind in (0..64).filter_map(GgmlType::from_id) {
            if let Some(format) = BlockFormat::of(kind) {
                assert_eq!(format.block_len() as u64, kind.block_len(), "{kind}");
                assert_eq!(format.block_bytes() as u64, kind.block_bytes(), "{kind}");
                assert!(BlockFormat::KNOWN.split(", ").any(|name| name == kind.name()));
                n_known += 1;
            }
        }
        assert_eq!(n_known, BlockFormat::KNOWN.split(", ").count());
    }
}
