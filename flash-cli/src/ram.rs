//! What `--ram` takes.

use std::str::FromStr;

use crate::size::{Size, SizeError};

/// A cap on memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ram {
    /// What the machine can spare, at any time.
    Auto,
    /// So much.
    Size(Size),
}

impl FromStr for Ram {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" { Ok(Self::Auto) } else { text.parse().map(Self::Size) }
    }
}

impl Ram {
    /// The size, if it is one.
    pub(crate) fn size(self) -> Option<Size> {
        match self {
            Self::Auto => None,
            Self::Size(size) => Some(size),
        }
    }
}
