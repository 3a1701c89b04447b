//! Run language models larger than memory.
fn main() {}
