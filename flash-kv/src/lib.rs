//! The memory and the format of a key-value cache, without knowing the tensor library.
//!
//! The most recent tokens are in memory, as computed:
//! - [`KvShape`] says what one token leaves behind in one layer, and what a *page*, a fixed count of tokens, takes.
//! - [`Tail`] holds tokens: one buffer of keys and one of values a layer, drawn from the budget in whole pages when the
//!   cache is made, so that a context never grows past what was planned for it.
//!
//! Older ones are sealed, a page at a time:
//! - [`PageLayout`] says how a page lies in a *record*, in each [`PageFormat`]; [`transcode`](fn@transcode) makes quantised pages of those
//!   of the window, within [`error_bound`]; [`seal`] and [`verify`] guard every bit.
//! - [`PageFile`] holds the pages of a context, each record at a place of its own; [`Writer`] writes them behind the
//!   computation; [`PageFile::recover`] says what a crash left.
//! - [`Scratch`] is such a file for one run, [`Session`] one that outlives it, and [`PrefixStore`] keeps pages that later
//!   prompts share, found by the [`Chain`] of their tokens.
//!
//! `docs/kv-format.md` has all of it byte by byte, and what a crash can do at each step. Nothing here knows attention.
//!
//! ```
//! use flash_io::Budget;
//! use flash_kv::{Halves, KvDtype, KvShape, Tail};
//!
//! let shape = KvShape { kv_heads: 3, head_dim: 64, halves: Halves::KeysAndValues, dtype: KvDtype::F32 };
//! let budget = Budget::new(1 << 20);
//! let mut tail = Tail::new(shape, 2, 200, &budget).unwrap();
//! assert_eq!(tail.capacity_tokens(), 256, "whole pages");
//! assert_eq!(tail.append(100).unwrap(), 0..100);
//! tail.truncate(60);
//! assert_eq!(tail.append(1).unwrap(), 60..61);
//! ```
//!
//! A page leaves the window, is written, and is there when the file is opened again:
//!
//! ```
//! use std::sync::Arc;
//! use flash_kv::{
//!     Chain, Digest, Geometry, Halves, Identity, PAGE_TOKENS, PageFile, PageFormat, RecordHead, Writer, WriterConfig,
//!     seal, transcode,
//! };
//! # fn main() -> Result<(), flash_kv::KvError> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("pages.kv");
//!
//! let (format, window_format) = (PageFormat::Int8, PageFormat::F16);
//! let halves = Halves::KeysAndValues;
//! let geometry =
//!     Geometry { n_layers: 1, kv_heads: 3, head_dim: 64, halves, format, window_format, window_tokens: 128 };
//! let identity = Identity { model: Digest([0; 32]), geometry };
//! let writer = Writer::new(Arc::new(PageFile::create(&path, &identity)?), &WriterConfig::default())?;
//!
//! let (window, layout) = (geometry.window_layout(), geometry.layout());
//! let (page, mut record) = (vec![0; window.record_bytes()], vec![0; layout.record_bytes()]);
//! transcode(&window, &page, &layout, &mut record)?;
//! let token_ids = [42; PAGE_TOKENS];
//! seal(&mut record, &RecordHead { format, page_idx: 0, layer_idx: 0, before: Chain::root(&identity), token_ids });
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
// What the tests from outside use, too.
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
pub use file::{FILE_HEAD_BYTES, PageFile, Recovered};
pub use format::{Halves, KvDtype, KvShape, PAGE_TOKENS};
pub use layout::{HalfLayout, PageFormat, PageLayout, RECORD_ALIGN};
pub use prefix::{
    Collected, Match, PrefixPage, PrefixPart, PrefixStore, collect_prefixes, prefixes, remove_prefix,
};
pub use quant::{CodeBits, GROUP_LEN, dequantize_row, error_bound, quantize_row};
pub use record::{Expected, HEAD_BYTES, RecordFault, RecordHead, seal, verify};
pub use scratch::{Scratch, remove_left_over_runs};
pub use session::{
    Opened, Saved, SavedTail, Session, SessionInfo, SessionState, TailPart, remove_session, sessions,
};
pub use tail::{LayerBuffers, Tail};
pub use transcode::{to_half, transcode};
pub use weights::{FileStamp, SampledWeights, WeightFile, weights_digest};
pub use writer::{Writer, WriterConfig, WriterStats, Written};
