//! Layout of a page in a record.

use std::fmt;
use std::ops::Range;

use crate::quant::{CodeBits, GROUP_LEN};
use crate::record::RECORD_HEADER_BYTES;
use crate::{KvParts, KvShape, PAGE_TOKENS};

/// Alignment of a record's length in bytes, as direct reads require.
pub const RECORD_ALIGN: usize = 4096;

/// Alignment of each part of a record in bytes: a cache line, so that vector loads never straddle two.
const PART_ALIGN: usize = 64;

/// Storage format of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PageFormat {
    /// 32-bit floats, as computed.
    F32,
    /// 16-bit floats.
    F16,
    /// 8-bit codes, with a scale and a bias per group.
    Int8,
    /// 4-bit codes, with a scale and a bias per group.
    Int4,
}

impl PageFormat {
    /// All formats.
    pub const ALL: &'static [PageFormat] = &[Self::F32, Self::F16, Self::Int8, Self::Int4];

    /// Returns the bits per element, without scales and biases.
    pub const fn bits(self) -> usize {
        match self {
            Self::F32 => 32,
            Self::F16 => 16,
            Self::Int8 => 8,
            Self::Int4 => 4,
        }
    }

    /// Returns the display name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// Returns the code width of a quantized format, and `None` for float formats.
    pub const fn code_bits(self) -> Option<CodeBits> {
        match self {
            Self::F32 | Self::F16 => None,
            Self::Int8 => Some(CodeBits::Eight),
            Self::Int4 => Some(CodeBits::Four),
        }
    }

    /// Returns its code in files; never 0, so that zeroed bytes are not a valid format.
    pub(crate) const fn tag(self) -> u32 {
        match self {
            Self::F32 => 1,
            Self::F16 => 2,
            Self::Int8 => 3,
            Self::Int4 => 4,
        }
    }
}

impl fmt::Display for PageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Byte ranges of the keys, or of the values, in a record.
///
/// Rows are ordered `[kv_heads, PAGE_TOKENS]`, the last index fastest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorLayout {
    /// `[kv_heads, PAGE_TOKENS, head_dim]`: little-endian floats, one-byte codes, or two 4-bit codes per byte with the
    /// even column in the low half. Each row starts at a byte boundary; the unused half byte of an odd row is 0.
    pub codes: Range<usize>,
    /// f32 `[kv_heads, PAGE_TOKENS, n_groups]`; empty for float formats.
    pub scales: Range<usize>,
    /// f32 `[kv_heads, PAGE_TOKENS, n_groups]`; empty for float formats.
    pub biases: Range<usize>,
}

/// Layout of one page ([`PAGE_TOKENS`] tokens of one layer) in a *record*: header, keys, values, and zero padding to a
/// multiple of [`RECORD_ALIGN`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageLayout {
    kv_heads: usize,
    head_dim: usize,
    parts: KvParts,
    format: PageFormat,
    keys: TensorLayout,
    values: TensorLayout,
}

impl PageLayout {
    /// Returns the layout of pages with separate keys and values, `kv_heads` heads of `head_dim` elements each.
    ///
    /// # Panics
    /// If a dimension is 0, or a record would exceed the address space.
    pub fn new(kv_heads: usize, head_dim: usize, format: PageFormat) -> Self {
        Self::of(kv_heads, head_dim, KvParts::KeysAndValues, format)
    }

    /// Returns the layout of pages that store the vectors named by `parts`.
    ///
    /// # Panics
    /// Panics like [`new`](Self::new).
    pub fn of(kv_heads: usize, head_dim: usize, parts: KvParts, format: PageFormat) -> Self {
        assert!(kv_heads > 0 && head_dim > 0, "pages have at least one element per token");
        let n_rows = kv_heads.checked_mul(PAGE_TOKENS).expect("pages fit in memory");
        let codes_bytes = n_rows.checked_mul(row_bytes(head_dim, format)).expect("pages fit in memory");
        let params_bytes = match format.code_bits() {
            Some(_) => n_rows * head_dim.div_ceil(GROUP_LEN) * size_of::<f32>(),
            None => 0,
        };
        let mut end = RECORD_HEADER_BYTES;
        let mut part = |len_bytes: usize| {
            let start = end.next_multiple_of(PART_ALIGN);
            end = start.checked_add(len_bytes).expect("pages fit in memory");
            start..end
        };
        let mut half = || TensorLayout {
            codes: part(codes_bytes),
            scales: part(params_bytes),
            biases: part(params_bytes),
        };
        let keys = half();
        let values = match parts {
            KvParts::KeysAndValues => half(),
            KvParts::KeysOnly => keys.clone(),
        };
        Self { kv_heads, head_dim, parts, format, keys, values }
    }

    /// Returns the number of KV heads.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Returns the elements of one head's key or value.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Returns the storage format.
    pub fn format(&self) -> PageFormat {
        self.format
    }

    /// Returns the byte ranges of the keys.
    pub fn keys(&self) -> &TensorLayout {
        &self.keys
    }

    /// Returns the byte ranges of the values: those of the keys, if values are not stored separately.
    pub fn values(&self) -> &TensorLayout {
        &self.values
    }

    /// Returns which vectors are stored per token.
    pub fn parts(&self) -> KvParts {
        self.parts
    }

    /// Iterates over what is stored: keys, then values if they are separate.
    pub fn stored(&self) -> impl Iterator<Item = &TensorLayout> {
        [&self.keys, &self.values].into_iter().take(self.parts.count())
    }

    /// Returns the number of rows of keys (or of values): one for each head and token.
    pub fn n_rows(&self) -> usize {
        self.kv_heads * PAGE_TOKENS
    }

    /// Returns the stride of rows of codes in bytes.
    pub fn row_bytes(&self) -> usize {
        row_bytes(self.head_dim, self.format)
    }

    /// Returns the number of quantization groups per row; 0 for float formats.
    pub fn n_groups(&self) -> usize {
        self.format.code_bits().map_or(0, |_| self.head_dim.div_ceil(GROUP_LEN))
    }

    /// Returns the offset where the payload ends and zero padding begins.
    pub fn payload_end(&self) -> usize {
        self.values.biases.end
    }

    /// Returns the length of a record, a multiple of [`RECORD_ALIGN`].
    pub fn record_bytes(&self) -> usize {
        self.payload_end().next_multiple_of(RECORD_ALIGN)
    }

    /// Returns the bytes of one token's keys and values in one layer, without header and padding: the baseline for
    /// write amplification.
    pub fn payload_token_bytes(&self) -> usize {
        self.parts.count() * self.kv_heads * (self.row_bytes() + 2 * self.n_groups() * size_of::<f32>())
    }
}

impl KvShape {
    /// Returns the layout of pages of this shape.
    pub fn layout(&self, format: PageFormat) -> PageLayout {
        PageLayout::of(self.kv_heads, self.head_dim, self.parts, format)
    }
}

fn row_bytes(head_dim: usize, format: PageFormat) -> usize {
    head_dim.checked_mul(format.bits()).expect("pages fit in memory").div_ceil(8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn formats() -> impl Strategy<Value = PageFormat> {
        prop::sample::select(PageFormat::ALL)
    }

    #[test]
    fn a_page_takes_at_most_a_tenth_more_than_its_quantised_tokens() {
        for (kv_heads, head_dim) in [(3, 64), (8, 128), (4, 256), (8, 64)] {
            for format in PageFormat::ALL {
                let layout = PageLayout::new(kv_heads, head_dim, *format);
                let tokens_bytes = PAGE_TOKENS * layout.payload_token_bytes();
                assert!(
                    layout.record_bytes() * 10 <= tokens_bytes * 11,
                    "{kv_heads}x{head_dim} {format}: {} B for {tokens_bytes} B",
                    layout.record_bytes(),
                );
            }
        }
    }

    #[test]
    fn token_size_counts_codes_scales_and_biases() {
        let token_bytes = |format| PageLayout::new(8, 128, format).payload_token_bytes();
        assert_eq!(token_bytes(PageFormat::F32), 2 * 8 * 128 * 4);
        assert_eq!(token_bytes(PageFormat::F16), 2 * 8 * 128 * 2);
        assert_eq!(token_bytes(PageFormat::Int8), 2 * 8 * (128 + 2 * 8));
        assert_eq!(token_bytes(PageFormat::Int4), 2 * 8 * (64 + 2 * 8));
    }

    #[test]
    fn shared_values_take_no_space() {
        for format in PageFormat::ALL {
            let [both, keys] = [KvParts::KeysAndValues, KvParts::KeysOnly]
                .map(|parts| PageLayout::of(1, 576, parts, *format));
            assert_eq!(2 * keys.payload_token_bytes(), both.payload_token_bytes());
            assert_eq!(keys.values(), keys.keys());
            assert_eq!((keys.stored().count(), both.stored().count()), (1, 2));
        }
    }

    proptest! {
        #[test]
        fn parts_follow_each_other_aligned_and_hold_their_shapes(
            kv_heads in 1..9usize,
            head_dim in 1..300usize,
            parts in prop::sample::select(vec![KvParts::KeysAndValues, KvParts::KeysOnly]),
            format in formats(),
        ) {
            let layout = PageLayout::of(kv_heads, head_dim, parts, format);
            let n_rows = kv_heads * PAGE_TOKENS;
            let mut end = RECORD_HEADER_BYTES;
            for half in layout.stored() {
                for part in [&half.codes, &half.scales, &half.biases] {
                    prop_assert!(part.start.is_multiple_of(PART_ALIGN));
                    // All part lengths are multiples of the alignment, so the only padding is at the end of the record.
                    prop_assert_eq!(part.start, end);
                    end = part.end;
                }
                prop_assert_eq!(half.codes.len(), n_rows * layout.row_bytes());
                prop_assert_eq!(half.scales.len(), n_rows * layout.n_groups() * 4);
                prop_assert_eq!(half.biases.len(), half.scales.len());
            }
            prop_assert_eq!(layout.payload_end(), RECORD_HEADER_BYTES + PAGE_TOKENS * layout.payload_token_bytes());
            prop_assert!(layout.record_bytes().is_multiple_of(RECORD_ALIGN));
            prop_assert!(layout.record_bytes() - end < RECORD_ALIGN);
        }
    }
}
