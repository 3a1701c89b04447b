//! How fast memory is read: the bound of decoding a model that is in memory.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::thread;
use std::time::Instant;

/// Much more than any cache holds.
const BUFFER_BYTES: usize = 1 << 30;
/// Passes over the buffer in one measurement: a tenth of a second or so.
const PASSES: usize = 4;

/// A buffer to be read.
#[derive(Debug)]
pub struct MemoryReader {
    words: Vec<u64>,
}

impl MemoryReader {
    /// Takes 1 GiB and writes to all of it, so that every OS page is there.
    pub fn new() -> Self {
        Self { words: vec![1; BUFFER_BYTES / size_of::<u64>()] }
    }

    /// Reads the buffer with so many threads, each its own part, and returns bytes per second.
    pub fn bytes_per_s(&self, threads: NonZeroUsize) -> f64 {
        let part = self.words.len().div_ceil(threads.get());
        let begin = Instant::now();
        thread::scope(|scope| {
            for words in self.words.chunks(part) {
                scope.spawn(move || {
                    for _ in 0..PASSES {
                        black_box(sum(black_box(words)));
                    }
                });
            }
        });
        (PASSES * BUFFER_BYTES) as f64 / begin.elapsed().as_secs_f64()
    }
}

impl Default for MemoryReader {
    fn default() -> Self {
        Self::new()
    }
}

/// Adds into many sums that do not wait for each other, which the compiler makes vectors of.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0_u64; 32];
    for chunk in words.chunks_exact(sums.len()) {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        assert_eq!(sum(&[1; 4096]), 4096);
    }
}
