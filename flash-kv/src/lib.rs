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

mod error;
mod format;
mod tail;

pub use error::KvError;
pub use format::{KvDtype, KvShape, PAGE_TOKENS};
pub use tail::{LayerBuffers, Tail};
