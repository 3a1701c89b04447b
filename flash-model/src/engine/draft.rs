//! Drafts: guesses of the next tokens, which one pass checks together.
//!
//! Where a pass is as fast for several rows as for one, tokens that are guessed correctly cost nothing. A guess is
//! correct if it is the token that is [sampled](crate::sample::Sampler) at its position, so drafts change the time of
//! an answer and not its tokens, whatever is guessed.
//!
//! A [`Drafter`] follows the tokens of a sequence, and guesses how it continues. [`Copies`] continues an earlier
//! occurrence of the last tokens, [`Recycling`] the successors that each token had. [`DraftChain`] chooses between them
//! by what was accepted recently ([`flash_sched::drafts`]). Drafters know neither a model nor a clock, and the same
//! calls give the same drafts.
//!
//! ```
//! use flash_model::draft::{Copies, Drafter};
//!
//! let mut copies = Copies::new(4096);
//! copies.learn(&[10, 11, 12, 13, 14, 15, 7, 10, 11, 12]);
//! let mut draft = Vec::new();
//! copies.propose(2, &mut draft);
//! assert_eq!(draft, [13, 14]);
//! ```

mod automaton;
mod chain;
mod copies;
mod recycling;

use std::fmt::Debug;

pub use chain::{DraftChain, DraftCounts, DraftSource};
pub use copies::Copies;
pub use recycling::Recycling;

/// Follows the tokens of a sequence, and drafts those that may come next.
pub trait Drafter: Debug {
    /// Appends tokens to the sequence: of the prompt, or sampled ones. Tokens of a draft that were accepted are sampled
    /// ones, too.
    fn learn(&mut self, tokens: &[u32]);

    /// Continues after the tokens `kept`, as tokens were taken back from the end of the sequence. All tokens taken back
    /// stay known as text, but are not part of the sequence.
    fn rewind(&mut self, kept: &[u32]);

    /// Appends up to `room` tokens to `out` that may follow the sequence; none if nothing is known that would.
    fn propose(&mut self, room: usize, out: &mut Vec<u32>);

    /// Returns the memory in bytes.
    fn bytes(&self) -> usize;
}
