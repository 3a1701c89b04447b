/// Progress of a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes of weights written so far.
    pub done_bytes: u64,
    /// Bytes of weights to write in all.
    pub total_bytes: u64,
}
