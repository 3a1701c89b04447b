//! Reads GGUF files: the header, the block formats and the tensor data.
//!
//! Source of the format: `docs/gguf.md` of the ggml project, and `gguf.cpp` for what it leaves open.

mod blocks;
mod error;
mod file;
mod header;
mod kind;
mod metadata;
mod split;
mod window;

pub use blocks::{BlockFormat, RepackError};
pub use error::{GgufError, Place};
pub use file::GgufFile;
pub use header::{Header, TensorInfo};
pub use kind::GgmlType;
pub use metadata::{Array, Metadata, NumberType, Numbers, Strings, Value};
