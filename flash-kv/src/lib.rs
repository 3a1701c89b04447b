//! Key-value cache storage: memory for recent tokens and a crash-safe on-disk format for sealed pages.
//!
//! The most recent tokens, the *window*, are kept in memory, unquantized:
//! - [`KvShape`] describes the keys and values of one token in one layer, and rounds to whole *pages* of
//!   [`PAGE_TOKENS`] tokens.
//! - [`Tail`] holds these tokens: one buffer of keys and one of values per layer. The budget is charged for all of it,
//!   in whole pages, at creation, so a context never outgrows its plan.
//!
//! When a page leaves the window, it is *sealed*: converted, given a checksum, and never changed again. Sealed pages
//! are stored on disk:
//! - [`PageLayout`] is the layout of a page in a *record*, for each [`PageFormat`]; [`transcode`](fn@transcode)
//!   converts pages of the window into quantized ones, within [`error_bound`]; [`seal`] and [`verify`] write and check
//!   the header and checksum.
//! - [`PageFile`] stores the pages of one context, each record at a fixed offset; [`Writer`] writes them on a
//!   background thread; [`PageFile::recover`] finds the pages that survived a crash.
//! - [`Scratch`] is a page file that lives for one run, [`Session`] one that persists, and [`PrefixStore`] keeps pages
//!   that later prompts share, looked up by the hash [`Chain`] of their tokens.
//! - [`Spool`] is a scratch file for anything else that leaves memory for a while.
//! - [`Identity`] says whose pages they are: files of another model, format or shape are rejected. [`weights_digest`]
//!   identifies a model by its weights, without reading all of them.
//!
//! `docs/kv-format.md` specifies the format byte by byte, and the effect of a crash at each step. This crate does not
//! compute attention.
//!
//! ```
//! use flash_io::Budget;
//! use flash_kv::{KvParts, KvDtype, KvShape, Tail};
//!
//! // Memory for 200 tokens in 2 layers of 3 KV heads, within a budget of 1 MiB.
//! let shape = KvShape { kv_heads: 3, head_dim: 64, parts: KvParts::KeysAndValues, dtype: KvDtype::F32 };
//! let budget = Budget::new(1 << 20);
//! let mut tail = Tail::new(shape, 2, 200, &budget).unwrap();
//! assert_eq!(tail.capacity_tokens(), 256, "whole pages");
//! assert_eq!(tail.append(100).unwrap(), 0..100);
//! tail.truncate(60);
//! assert_eq!(tail.append(1).unwrap(), 60..61);
//! ```
//!
//! Seals a page that left the window, writes it, and reads it back after reopening the file:
//!
//! ```
//! use std::sync::Arc;
//! use flash_kv::{
//!     Chain, Digest, Geometry, KvParts, Identity, PAGE_TOKENS, PageFile, PageFormat, RecordHeader, Writer, WriterConfig,
//!     seal, transcode,
//! };
//! # fn main() -> Result<(), flash_kv::KvError> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("pages.kv");
//!
//! let (format, window_format) = (PageFormat::Int8, PageFormat::F16);
//! let parts = KvParts::KeysAndValues;
//! let geometry =
//!     Geometry { n_layers: 1, kv_heads: 3, head_dim: 64, parts, format, window_format, window_tokens: 128 };
//! let identity = Identity { model: Digest([0; 32]), geometry };
//! let writer = Writer::new(Arc::new(PageFile::create(&path, &identity)?), &WriterConfig::default())?;
//!
//! let (window, layout) = (geometry.window_layout(), geometry.layout());
//! let (page, mut record) = (vec![0; window.record_bytes()], vec![0; layout.record_bytes()]);
//! transcode(&window, &page, &layout, &mut record)?;
//! let token_ids = [42; PAGE_TOKENS];
//! seal(&mut record, &RecordHeader { format, page_idx: 0, layer_idx: 0, before: Chain::root(&identity), token_ids });
//! let written = writer.submit(0, 0, Arc::new(record))?;
//! written.wait()?;
//! drop((writer, written));
//!
//! let found = PageFile::open(&path, &identity)?.recover()?;
//! assert_eq!(found.token_ids, token_ids);
//! # Ok(())
//! # }
//! ```

mod bytes;
mod chain;
#[cfg(test)]
mod crashes;
mod disk;
mod error;
mod file;
mod format;
mod layout;
mod prefix;
mod quant;
mod record;
mod scratch;
mod session;
mod spool;
// Shared with the integration tests.
#[cfg(test)]
#[path = "../tests/it/support.rs"]
mod support;
mod tail;
mod transcode;
mod weights;
mod writer;

#[cfg(test)]
extern crate self as flash_kv;

pub use chain::{Chain, Digest, FORMAT_VERSION, Geometry, Identity, common_tokens};
pub use error::KvError;
pub use file::{FILE_HEADER_BYTES, PageFile, Recovered};
pub use format::{KvDtype, KvParts, KvShape, PAGE_TOKENS};
pub use layout::{PageFormat, PageLayout, RECORD_ALIGN, TensorLayout};
pub use prefix::{
    EvictedPrefixes, PrefixMatch, PrefixPage, PrefixPart, PrefixStore, evict_prefixes, prefixes,
    remove_prefix,
};
pub use quant::{CodeBits, GROUP_LEN, dequantize_row, error_bound, quantize_row};
pub use record::{ExpectedRecord, RECORD_HEADER_BYTES, RecordFault, RecordHeader, seal, verify};
pub use scratch::{Scratch, remove_stale_runs};
pub use session::{
    OpenedSession, SavedState, SavedTail, Session, SessionInfo, SessionState, TailPart, remove_session,
    sessions,
};
pub use spool::{Spool, SpoolReader, SpoolWriter, Spooled};
pub use tail::{LayerBuffers, Tail};
pub use transcode::{to_f16, transcode};
pub use weights::{FileStamp, SampledWeights, WeightFile, weights_digest};
pub use writer::{WriteHandle, Writer, WriterConfig, WriterStats};
