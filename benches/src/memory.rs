//! Measures the read bandwidth of memory, the upper bound for decoding a model in memory.

use std::hint::black_box;
use std::io;
use std::num::NonZeroUsize;
use std::thread;
use std::time::Instant;

use memmap2::MmapMut;

/// Size of the buffer, much larger than any cache.
const BUFFER_BYTES: usize = 1 << 30;
/// Passes over the buffer per measurement, which take about a tenth of a second.
const PASSES: usize = 4;

/// A buffer to read, in huge pages where available, like the weights of the engine.
#[derive(Debug)]
pub struct MemoryReader {
    buffer: MmapMut,
}

impl MemoryReader {
    /// Allocates 1 GiB, and writes to all of it so that every OS page is resident.
    ///
    /// # Errors
    /// The error of the system if the allocation fails.
    pub fn new() -> io::Result<Self> {
        let mut buffer = MmapMut::map_anon(BUFFER_BYTES)?;
        // Huge pages are optional: without them, the measurement is only slower.
        #[cfg(target_os = "linux")]
        let _ = buffer.advise(memmap2::Advice::HugePage);
        buffer.fill(1);
        Ok(Self { buffer })
    }

    /// Reads the buffer with `threads` threads, each its own part, and returns bytes per second.
    pub fn bytes_per_s(&self, threads: NonZeroUsize) -> f64 {
        let words: &[u64] = bytemuck::cast_slice(&self.buffer);
        let part = words.len().div_ceil(threads.get());
        let begin = Instant::now();
        thread::scope(|scope| {
            for words in words.chunks(part) {
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

/// Adds the words of a cache line at a time, into independent sums. With more sums than registers, the compiler reads
/// lines from back to front, which defeats the hardware prefetcher.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0_u64; 8];
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
