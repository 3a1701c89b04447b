use crate::strips::STRIP_ROWS;

/// Why slices do not fit together, or numbers do not fit a format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The format packs codes of another width.
    #[error("affine codes of {bits} bits are not supported: those of 2, 3, 4, 5, 6 and 8 are")]
    Bits {
        /// The width asked for.
        bits: u32,
    },
    /// The format has groups of another length.
    #[error("affine groups of {group_size} values are not supported (32, 64 and 128 are)")]
    GroupSize {
        /// The length asked for, in values.
        group_size: usize,
    },
    /// A row does not consist of whole groups.
    #[error("a row of {n_values} values does not divide into groups of {group_size}")]
    PartialGroup {
        /// Values in the row.
        n_values: usize,
        /// Values in a group.
        group_size: usize,
    },
    /// A slice is longer or shorter than the row it belongs to.
    #[error("{slice}: the row wants {wanted_bytes} B, the slice has {got_bytes} B")]
    SliceLen {
        /// Which argument.
        slice: &'static str,
        /// Length that fits the row.
        wanted_bytes: usize,
        /// Length given.
        got_bytes: usize,
    },
    /// Only affine codes of 4 and 8 bits lie in strips, and only in whole ones.
    #[error("{n_rows} rows are no affine codes of 4 or 8 bits in whole strips of {STRIP_ROWS} rows")]
    Strips {
        /// Rows of the matrix.
        n_rows: usize,
    },
    /// The rows of a stacked matrix are not as many for each expert.
    #[error("{n_rows} rows do not divide into {n_experts} experts")]
    PartialExpert {
        /// Rows of all experts.
        n_rows: usize,
        /// Experts.
        n_experts: usize,
    },
    /// The matrices of a stack differ.
    #[error(
        "expert {expert_idx} has the shape {shape:?} or a format that is not that of expert 0, {wanted:?}"
    )]
    UnlikeExpert {
        /// The first that is not like the first of all.
        expert_idx: usize,
        /// Its shape.
        shape: [usize; 2],
        /// The shape of expert 0.
        wanted: [usize; 2],
    },
    /// An index of a row or of an expert is beyond the last.
    #[error("{indices}[{at}] is {index}, and must be less than {limit}")]
    Index {
        /// Which argument: `lhs` or `rhs`.
        indices: &'static str,
        /// Place of the index among the others.
        at: usize,
        /// The index.
        index: u32,
        /// What there is to choose from.
        limit: usize,
    },
    /// An instruction set does not exist, or this machine does not have it.
    #[error("{wanted} is none of the instruction sets of this machine: {available}")]
    Isa {
        /// The name asked for.
        wanted: String,
        /// The names that would do.
        available: String,
    },
    /// A NaN, or a value beyond what the type of the scales can hold, cannot be quantised.
    #[error("value {value_idx} of the row is not a number that can be quantised: {value}")]
    OutOfRange {
        /// Place in the row.
        value_idx: usize,
        /// The value, in words, for errors compare equal and NaN does not.
        value: String,
    },
}

/// `Ok` if the slice called `slice` has exactly the bytes that its row wants.
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
