//! Reusable buffers for the values that kernels pass to each other.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Maximum number of spare buffers per thread, and of bytes in all of them. A layer uses about twenty buffers, with
/// other lengths for 128 tokens than for the last tokens of a prompt.
const SPARES: usize = 64;
const SPARE_BYTES_MAX: usize = 16 << 20;

/// Minimum size of a spare buffer. The allocator itself keeps smaller blocks, which would evict long buffers here.
const SPARE_BYTES_MIN: usize = 32 << 10;

thread_local! {
    /// Least recently dropped first.
    static SPARES_OF_THREAD: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of `f32` whose memory is reused by the dropping thread for its next buffer of the same length.
///
/// The system zeroes fresh memory page by page, which may take as long as the computation that fills it. A thread keeps
/// dropped buffers of 32 KiB and more, at most 64 of them and 16 MiB.
#[derive(Debug)]
pub struct Buffer(Vec<f32>);

impl Buffer {
    /// Returns a buffer of `len` numbers with unspecified values.
    pub fn new(len: usize) -> Self {
        SPARES_OF_THREAD.with_borrow_mut(|spares| {
            let fits = spares.iter().rposition(|spare| spare.len() == len);
            Self(fits.map_or_else(|| vec![0.0; len], |idx| spares.remove(idx)))
        })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let numbers = std::mem::take(&mut self.0);
        if size_of_val(&*numbers) < SPARE_BYTES_MIN {
            return;
        }
        // During thread exit the buffer is freed.
        let _ = SPARES_OF_THREAD.try_with(|spares| {
            let mut spares = spares.borrow_mut();
            spares.push(numbers);
            let bytes = |spares: &[Vec<f32>]| spares.iter().map(|spare| size_of_val(&**spare)).sum::<usize>();
            while spares.len() > SPARES || bytes(&spares) > SPARE_BYTES_MAX {
                spares.remove(0);
            }
        });
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n_spares() -> usize {
        SPARES_OF_THREAD.with_borrow(Vec::len)
    }

    /// Length of the smallest buffer that is kept.
    const LEN: usize = SPARE_BYTES_MIN / size_of::<f32>();

    #[test]
    fn memory_is_used_again_for_as_many_numbers() {
        let mut buffer = Buffer::new(LEN);
        buffer[..3].copy_from_slice(&[1.0, 2.0, 3.0]);
        let address = buffer.as_ptr();
        drop(buffer);
        assert_eq!(Buffer::new(LEN + 1).len(), LEN + 1);
        let again = Buffer::new(LEN);
        assert_eq!((again.as_ptr(), again.len()), (address, LEN));
        let other = Buffer::new(LEN);
        assert_ne!(other.as_ptr(), again.as_ptr());
    }

    #[test]
    fn short_buffers_do_not_push_out_long_ones() {
        let address = Buffer::new(LEN).as_ptr();
        (0..2 * SPARES).for_each(|len| drop(Buffer::new(len)));
        assert_eq!(n_spares(), 1);
        assert_eq!(Buffer::new(LEN).as_ptr(), address);
    }

    #[test]
    fn a_thread_keeps_no_more_than_it_may() {
        for len in LEN..LEN + 2 * SPARES {
            drop(Buffer::new(len));
        }
        assert_eq!(n_spares(), SPARES);
        let third = SPARE_BYTES_MAX / 3 / size_of::<f32>();
        for len in third..third + 5 {
            drop(Buffer::new(len));
        }
        assert!(n_spares() <= 3);
        drop(Buffer::new(SPARE_BYTES_MAX));
        assert_eq!(n_spares(), 0, "one too long for any");
    }
}
