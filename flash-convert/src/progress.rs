/// How far a conversion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes of weights written.
    pub done_bytes: u64,
    /// Bytes of weights to write in all.
    pub total_bytes: u64,
}
