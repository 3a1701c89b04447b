use std::fmt;

/// A tensor type of ggml with its block layout.
///
/// Ids, block lengths and block sizes are those of `ggml.h` (`enum ggml_type`) and `ggml-common.h`; types that ggml
/// removed (4, 5, 31 to 33, 36 to 38) are not defined.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GgmlType(&'static Row);

#[derive(PartialEq, Eq, Hash)]
struct Row {
    id: u32,
    name: &'static str,
    block_len: u64,
    block_bytes: u64,
}

const fn row(id: u32, name: &'static str, block_len: u64, block_bytes: u64) -> Row {
    Row { id, name, block_len, block_bytes }
}

static TYPES: [Row; 34] = [
    row(0, "F32", 1, 4),
    row(1, "F16", 1, 2),
    row(2, "Q4_0", 32, 18),
    row(3, "Q4_1", 32, 20),
    row(6, "Q5_0", 32, 22),
    row(7, "Q5_1", 32, 24),
    row(8, "Q8_0", 32, 34),
    row(9, "Q8_1", 32, 40),
    row(10, "Q2_K", 256, 84),
    row(11, "Q3_K", 256, 110),
    row(12, "Q4_K", 256, 144),
    row(13, "Q5_K", 256, 176),
    row(14, "Q6_K", 256, 210),
    row(15, "Q8_K", 256, 292),
    row(16, "IQ2_XXS", 256, 66),
    row(17, "IQ2_XS", 256, 74),
    row(18, "IQ3_XXS", 256, 98),
    row(19, "IQ1_S", 256, 50),
    row(20, "IQ4_NL", 32, 18),
    row(21, "IQ3_S", 256, 110),
    row(22, "IQ2_S", 256, 82),
    row(23, "IQ4_XS", 256, 136),
    row(24, "I8", 1, 1),
    row(25, "I16", 1, 2),
    row(26, "I32", 1, 4),
    row(27, "I64", 1, 8),
    row(28, "F64", 1, 8),
    row(29, "IQ1_M", 256, 56),
    row(30, "BF16", 1, 2),
    row(34, "TQ1_0", 256, 54),
    row(35, "TQ2_0", 256, 66),
    row(39, "MXFP4", 32, 17),
    row(40, "NVFP4", 64, 36),
    row(41, "Q1_0", 128, 18),
];

impl GgmlType {
    /// Returns the type with this id, if ggml defines it.
    pub fn from_id(id: u32) -> Option<Self> {
        TYPES.iter().find(|row| row.id == id).map(Self)
    }

    /// Returns ggml's id of the type.
    pub const fn id(self) -> u32 {
        self.0.id
    }

    /// Returns ggml's name of the type, such as `Q4_K`.
    pub const fn name(self) -> &'static str {
        self.0.name
    }

    /// Returns the number of values in a block.
    pub const fn block_len(self) -> u64 {
        self.0.block_len
    }

    /// Returns the size of a block in bytes.
    pub const fn block_bytes(self) -> u64 {
        self.0.block_bytes
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
