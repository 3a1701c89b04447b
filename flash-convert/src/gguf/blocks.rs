//! The block formats: from stored blocks to `f32`, and without loss to MLX's affine format.
//!
//! Source of the layouts: `ggml-common.h` and `ggml-quants.c` of the ggml project.
//!
//! All quantised formats but `Q6_K` are made of groups of 32 codes with one scale, and either one bias or a code
//! that stands for zero. That is MLX's affine format with groups of 32, so such a block can be repacked exactly:
//! scale and bias of the old formats are `f16` numbers, those of the K-formats products of an `f16` and a 6-bit
//! integer, which `f32` holds exactly, as it does every product with a code.

use flash_kernels::{Affine, FloatType};

use super::kind::GgmlType;

/// Values of a group that share a scale, in all formats but `Q6_K`.
const GROUP_LEN: usize = 32;

/// How the values of a tensor are stored, for the types that can be converted.
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

/// Why blocks could not be repacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepackError {
    /// The scale or bias of this group is infinite or no number.
    NotFinite {
        /// Counted from the first block given, in groups of 32 values.
        group_idx: usize,
    },
    /// The bias of this group is beyond `f16`; `f32` can hold it.
    BeyondF16 {
        /// Counted from the first block given, in groups of 32 values.
        group_idx: usize,
    },
}

/// 32 codes and what they mean: `value = scale · (code - zero) + bias`, one of `zero` and `bias` being 0.
struct Group {
    codes: [u8; GROUP_LEN],
    scale: f32,
    zero: u8,
    bias: f32,
}

impl BlockFormat {
    /// The format of a ggml type, if it can be converted.
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

    /// The names of the types that can be converted, for messages.
    pub const KNOWN: &'static str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K";

    /// Values in a block.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
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

    /// Bytes of `n_values` values in whole blocks.
    pub const fn bytes(self, n_values: u64) -> u64 {
        n_values / self.block_len() as u64 * self.block_bytes() as u64
    }

    /// The float type, if values are stored as they are.
    pub const fn float(self) -> Option<FloatType> {
        match self {
            Self::F32 => Some(FloatType::F32),
            Self::F16 => Some(FloatType::F16),
            Self::BF16 => Some(FloatType::BF16),
            _ => None,
        }
    }

    /// The bits of the affine codes that hold this format's blocks without loss, and the narrowest type that does
    /// so for their scales (and, but for overflow, their biases). `None` for floats and for `Q6_K`, whose groups of
    /// 16 are finer than any of MLX's.
    pub const fn affine(self) -> Option<(u32, FloatType)> {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::Q6K => None,
            Self::Q4_0 | Self::Q4_1 => Some((4, FloatType::F16)),
            Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => Some((8, FloatType::F16)),
            Self::Q4K => Some((4, FloatType::F32)),
            Self::Q5K => Some((8, FloatType::F32)),
        }
    }

    /// Dequantises `blocks` into `out`, equal bit for bit to `gguf.quants.dequantize` of the Python package gguf.
    ///
    /// # Panics
    /// If `blocks` are no whole blocks, or `out` has not as many values.
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
                    // Both roundings of the reference: the product is exact, the sum rounds once. Where there is
                    // no bias nothing may be added, for that would turn -0 into 0.
                    let product = group.scale * (f32::from(code) - zero);
                    *out = if group.zero == 0 { product + group.bias } else { product };
                }
            }),
        }
    }

    /// Repacks `blocks` into affine codes, scales and biases (groups of 32, scales and biases of `float`), which
    /// mean exactly the same values.
    ///
    /// # Errors
    /// [`RepackError`]; the slices then hold the groups before the one named.
    ///
    /// # Panics
    /// If the format has no [`affine`](Self::affine) form, or a slice does not fit.
    pub fn repack(
        self,
        blocks: &[u8],
        float: FloatType,
        codes: &mut [u8],
        scales: &mut [u8],
        biases: &mut [u8],
    ) -> Result<(), RepackError> {
        let (bits, _) = self.affine().expect("a format with an affine form");
        let affine = Affine::new(bits, GROUP_LEN).expect("a width and a length that MLX has");
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
                    failed = Err(RepackError::BeyondF16 { group_idx });
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

    fn check(self, blocks: &[u8], n_values: usize) {
        assert!(
            n_values.is_multiple_of(self.block_len())
                && n_values / self.block_len() * self.block_bytes() == blocks.len(),
            "{self:?}: {n_values} values in {} B of blocks",
            blocks.len(),
        );
    }

    /// Calls `each` with every group of 32 in order.
    fn each_group(self, blocks: &[u8], mut each: impl FnMut(usize, Group)) {
        let groups_per_block = self.block_len() / GROUP_LEN;
        for (block_idx, block) in blocks.chunks_exact(self.block_bytes()).enumerate() {
            for idx in 0..groups_per_block {
                each(block_idx * groups_per_block + idx, self.group(block, idx));
            }
        }
    }

    /// Group `idx` of one block.
    fn group(self, block: &[u8], idx: usize) -> Group {
        let scale = f16_at(block, 0);
        match self {
            Self::Q4_0 => Group { codes: halves(&block[2..18]), scale, zero: 8, bias: 0.0 },
            Self::Q4_1 => Group { codes: halves(&block[4..20]), scale, zero: 0, bias: f16_at(block, 2) },
            Self::Q5_0 => Group {
                codes: with_fifth_bit(halves(&block[6..22]), &block[2..6]),
                scale,
                zero: 16,
                bias: 0.0,
            },
            Self::Q5_1 => Group {
                codes: with_fifth_bit(halves(&block[8..24]), &block[4..8]),
                scale,
                zero: 0,
                bias: f16_at(block, 2),
            },
            Self::Q8_0 => Group {
                // Two's complement to offset binary: only the sign bit differs.
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

/// 16 bytes: the low halves are the first 16 codes, the high halves the others.
fn halves(bytes: &[u8]) -> [u8; GROUP_LEN] {
    std::array::from_fn(|i| (bytes[i % 16] >> (i / 16 * 4)) & 15)
}

/// Adds bit `i` of `high` to code `i`, as its fifth.
fn with_fifth_bit(mut codes: [u8; GROUP_LEN], high: &[u8]) -> [u8; GROUP_LEN] {
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= ((high[i / 8] >> (i % 8)) & 1) << 4;
    }
    codes
}

/// Group `idx` (0 to 7) of a `Q4_K` or `Q5_K` block: two `f16` (scale and minimum of the block), 12 bytes with a
/// 6-bit scale and minimum for each group, for `Q5_K` the fifth bits (bit `idx` of each of 32 bytes), then the low
/// halves of codes, two groups in 32 bytes.
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

/// A `Q6_K` block: 128 bytes of low halves, 64 of upper two bits, 16 signed 8-bit scales (one for 16 values), and
/// the block's `f16` scale. Each half of the block has its 128 values in four runs of 32.
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
