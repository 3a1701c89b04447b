//! Value of `--ram`.

use std::str::FromStr;

use crate::size::{Size, SizeError};

/// A memory budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ram {
    /// Follows the free memory of the machine.
    Auto,
    /// A fixed size.
    Size(Size),
}

impl FromStr for Ram {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" { Ok(Self::Auto) } else { text.parse().map(Self::Size) }
    }
}

impl Ram {
    /// Returns the size, if fixed.
    pub(crate) fn size(self) -> Option<Size> {
        match self {
            Self::Auto => None,
            Self::Size(size) => Some(size),
        }
    }
}
