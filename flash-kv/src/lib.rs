//! The memory and the format of a key-value cache, without knowing the tensor library.
//!
//! [`KvShape`] says what one token leaves behind in one layer, and what a *page*, a fixed count of tokens, takes.
//! [`Tail`] holds the most recent tokens: one buffer of keys and one of values a layer, drawn from the budget in
//! whole pages when the cache is made, so that a context never grows past what was planned for it.
//!
//! ```
//! use flash_io::Budget;
//! use flash_kv::{KvDtype, KvShape, Tail};
//!
//! let shape = KvShape { kv_heads: 3, head_dim: 64, dtype: KvDtype::F32 };
//! let budget = Budget::new(1 << 20);
//! let mut tail = Tail::new(shape, 2, 200, &budget).unwrap();
//! assert_eq!(tail.capacity_tokens(), 256, "whole pages");
//! assert_eq!(tail.append(100).unwrap(), 0..100);
//! tail.truncate(60);
//! assert_eq!(tail.append(1).unwrap(), 60..61);
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
mod writer;

#[cfg(test)]
extern crate self as flash_kv;

pub use chain::{Chain, Digest, FORMAT_VERSION, Geometry, Identity};
pub use error::KvError;
pub use file::{FILE_HEAD_BYTES, PageFile, Recovered};
pub use format::{KvDtype, KvShape, PAGE_TOKENS};
pub use layout::{HalfLayout, PageFormat, PageLayout, RECORD_ALIGN};
pub use prefix::{
    Collected, Match, PrefixPage, PrefixPart, PrefixStore, collect_prefixes, prefixes, remove_prefix,
};
pub use quant::{CodeBits, GROUP_LEN, dequantize_row, error_bound, quantize_row};
pub use record::{Expected, HEAD_BYTES, RecordFault, RecordHead, seal, verify};
pub use scratch::Scratch;
pub use session::{Opened, Saved, SavedTail, Session, SessionInfo, remove_session, sessions};
pub use tail::{LayerBuffers, Tail};
pub use transcode::{to_half, transcode};
pub use writer::{Writer, WriterConfig, WriterStats, Written};
