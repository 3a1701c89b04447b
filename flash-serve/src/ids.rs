//! Ids of answers and calls.

use std::iter;

/// Random characters of an id, which make 143 bits.
const ID_CHARS: usize = 24;

/// Returns a new id.
pub(crate) fn random(prefix: &str) -> String {
    let chars = iter::repeat_with(fastrand::alphanumeric).take(ID_CHARS);
    prefix.chars().chain(chars).collect()
}
