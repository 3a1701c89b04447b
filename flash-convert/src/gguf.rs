//! Reading GGUF: the header, the block formats, and the file that holds both.
//!
//! Source of the format: `docs/gguf.md` of the ggml project, and `gguf.cpp` where that is silent.

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
