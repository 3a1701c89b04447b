//! Measures the read bandwidth of memory, the upper bound for decoding a model in memory.

use std::hint::black_box;
use std::io;
use std::num::NonZeroUsize;
use std::time::Instant;

use flash_kernels::{Isa, Pool, sum_words};
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

    /// Reads the buffer with `threads` threads, and returns bytes per second.
    pub fn bytes_per_s(&self, threads: NonZeroUsize) -> f64 {
        let pool = Pool::with_isa(threads, Isa::best()).expect("this machine has its best instruction set");
        let begin = Instant::now();
        for _ in 0..PASSES {
            black_box(sum_words(&pool, black_box(&self.buffer)));
        }
        (PASSES * BUFFER_BYTES) as f64 / begin.elapsed().as_secs_f64()
    }
}
