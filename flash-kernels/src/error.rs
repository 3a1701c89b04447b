/// An error of slice lengths, indices, formats or instruction sets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The code width is not supported.
    #[error("affine codes of {bits} bits are not supported (2, 3, 4, 5, 6 and 8 are)")]
    Bits {
        /// The requested width, in bits.
        bits: u32,
    },
    /// The group length is not supported.
    #[error("affine groups of {group_size} values are not supported (32, 64 and 128 are)")]
    GroupSize {
        /// The requested length, in values.
        group_size: usize,
    },
    /// The row length is not a multiple of the group length.
    #[error("a row of {n_values} values does not divide into groups of {group_size}")]
    PartialGroup {
        /// Values in the row.
        n_values: usize,
        /// Values in a group.
        group_size: usize,
    },
    /// A slice does not have the length that its row requires.
    #[error("{slice}: the row wants {wanted_bytes} B, the slice has {got_bytes} B")]
    SliceLen {
        /// Name of the argument.
        slice: &'static str,
        /// Required length.
        wanted_bytes: usize,
        /// Actual length.
        got_bytes: usize,
    },
    /// The matrix cannot be stored in strips: it takes affine codes of 4 or 8 bits and a whole number of strips.
    #[error(
        "strips take affine codes of 4 or 8 bits and a multiple of {strip_rows} rows; the matrix has {n_rows} rows"
    )]
    Strips {
        /// Rows of the matrix.
        n_rows: usize,
        /// Rows of a strip.
        strip_rows: usize,
    },
    /// The rows of a stacked matrix do not divide evenly among the experts.
    #[error("{n_rows} rows do not divide evenly into {n_experts} experts")]
    UnevenExperts {
        /// Rows of all experts together.
        n_rows: usize,
        /// Number of experts.
        n_experts: usize,
    },
    /// An expert has another shape or format than expert 0.
    #[error("expert {expert_idx}, {shape:?}, differs in shape or format from expert 0, {wanted:?}")]
    ExpertMismatch {
        /// The first expert that differs.
        expert_idx: usize,
        /// Its shape.
        shape: [usize; 2],
        /// The shape of expert 0.
        wanted: [usize; 2],
    },
    /// A row or expert index is out of range.
    #[error("{indices}[{at}] is {index}, and must be less than {limit}")]
    Index {
        /// Name of the argument: `lhs` or `rhs`.
        indices: &'static str,
        /// Position of the index in the argument.
        at: usize,
        /// The index.
        index: u32,
        /// Number of rows or experts.
        limit: usize,
    },
    /// The instruction set is unknown or not available on this machine.
    #[error("{wanted} is not an instruction set of this machine (available: {available})")]
    Isa {
        /// The requested name.
        wanted: String,
        /// The names available on this machine.
        available: String,
    },
    /// The value is NaN or exceeds the range of the scale type, so it cannot be quantized.
    #[error("value {value_idx} of the row cannot be quantised: {value}")]
    OutOfRange {
        /// Position in the row.
        value_idx: usize,
        /// The value as text, because errors compare equal and NaN does not.
        value: String,
    },
}

/// Checks that the slice called `slice` has exactly the length its row requires.
pub(crate) fn check_len(
    slice: &'static str,
    wanted_bytes: usize,
    got_bytes: usize,
) -> Result<(), KernelError> {
    if wanted_bytes == got_bytes {
        Ok(())
    } else {
        Err(KernelError::SliceLen { slice, wanted_bytes, got_bytes })
    }
}
