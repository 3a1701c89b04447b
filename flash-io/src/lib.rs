//! Reads tensors of safetensors checkpoints from disk into page-aligned memory under a byte budget.
//!
//! A *shard* is one safetensors file, a *bundle* the tensors that are loaded together (a layer, say), and a *slot* a
//! buffer that bundles are read into, one after the other.
//!
//! - [`Catalog`] finds the tensors of a model directory: one file, an index with its shards, or shards
//!   alone. Only headers are read, and headers are treated as hostile.
//! - [`Budget`] is a hard cap on memory; [`SlotPool`], [`Slot`] and [`PageBuf`] draw page-aligned memory
//!   from it.
//! - [`BundleLayout`] is the place of a bundle's tensors in a slot, and the byte ranges to read for them.
//! - [`Reader`] keeps the disk busy: an io_uring or a thread pool fills slots chunk by chunk, with bounded retry and
//!   [`Stats`]. [`Reader::submit`] returns a [`Ticket`] to wait for. A [`Pace`] limits the rate.
//! - [`ReadAt`] is the storage interface: [`uring`](IoMode::Uring), [`direct`](IoMode::Direct),
//!   [`pread`](IoMode::Pread), [`mmap`](IoMode::Mmap), or an implementation of your own.
//! - [`Tuning`] probes a device for the fastest mode, queue depth and read size, using [`measure`].
//! - [`LfsPointer`] recognizes the pointer files that a clone without Git LFS contains.
//! - [`parse_python_json`] parses JSON as Python writes it, for the crates above, which read config.json.
//!
//! Builds on 64-bit Linux and macOS; other Unix systems are allowed but untested. Other targets fail to compile: files
//! are read by descriptor and offset, and the lengths of a model's shards do not fit 32 bits.
//!
//! The crate interprets no tensor data, reads nothing ahead of a request, and caches nothing.
//!
//! ```
//! use std::sync::Arc;
//! use flash_io::{Budget, BundleLayout, Catalog, IoMode, Reader, ReaderConfig, SlotPool, Tuning};
//! # fn main() -> Result<(), flash_io::IoError> {
//! # let tmp = tempfile::tempdir().unwrap();
//! # let model_dir = tmp.path();
//! # let header = br#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}"#;
//! # let file = [&(header.len() as u64).to_le_bytes(), &header[..], b"xyz"].concat();
//! # std::fs::write(model_dir.join("model.safetensors"), file).unwrap();
//!
//! // The fastest way to read from this disk, and the tensors of the model: here a `U8` of two bytes and one of one.
//! let Tuning { mode, depth, chunk_bytes } = Tuning::find(model_dir, IoMode::Auto, None);
//! let catalog = Catalog::open(model_dir, mode)?;
//! let tensors: Vec<_> = catalog.tensors().map(|tensor| (tensor.shard, tensor.span)).collect();
//! let bundle = Arc::new(BundleLayout::new(&tensors));
//!
//! // Two slots within a budget of 1 MiB, and a read into one of them.
//! let pool = SlotPool::new(&Budget::new(1 << 20), bundle.slot_bytes(), 2)?;
//! let config = ReaderConfig { depth, chunk_bytes, ..ReaderConfig::default() };
//! let reader = Reader::new(catalog.shards().to_vec(), config)?;
//! let slot = pool.try_acquire().expect("both slots are free");
//! let slot = reader.submit(&bundle, slot).wait()?;
//! assert_eq!(&slot[bundle.tensor_offset(1)..][..1], b"z");
//! # Ok(())
//! # }
//! ```

#[cfg(not(unix))]
compile_error!("flash-io builds on Linux and macOS only: it reads files by Unix descriptor and offset");
#[cfg(not(target_pointer_width = "64"))]
compile_error!("flash-io builds for 64-bit targets only: the lengths of a model's shards do not fit 32 bits");

mod budget;
mod catalog;
mod dtype;
mod error;
#[cfg(feature = "testing")]
pub mod faults;
mod header;
mod layout;
mod lfs;
pub mod measure;
mod mode;
mod pages;
mod pool;
mod probe;
mod python;
mod reader;
#[cfg(target_os = "linux")]
mod ring_setup;
mod span;
mod storage;
mod sync;

pub use budget::{Budget, Reservation};
pub use catalog::{Catalog, MAX_INDEX_BYTES, Shard, ShardIdx, Tensor};
pub use dtype::Dtype;
pub use error::{HeaderFault, IoError};
pub use header::{Header, MAX_HEADER_BYTES, TensorInfo};
pub use layout::{BundleLayout, Extent};
pub use lfs::{LFS_POINTER_BYTES_MAX, LfsPointer};
pub use mode::IoMode;
pub use pages::{LEAD_BYTES, PageBuf};
pub use pool::{Slot, SlotPool};
pub use probe::Tuning;
pub use python::{deserialize_naming_fields, parse_python_json};
pub use reader::{Booking, CancelledReads, Pace, Reader, ReaderConfig, Stats, StatsHandle, Ticket};
pub use span::Span;
pub use storage::{DIRECT_ALIGN, ReadAt, open};
