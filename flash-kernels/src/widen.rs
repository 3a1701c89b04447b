//! Codes of 2, 3 and 6 bits, widened to 8 so that the kernels read them.

/// Widens whole rows of `codes` of `bits` (2, 3 or 6) to one code a byte.
///
/// Codes are a stream of bits, the lowest of each byte first, and follow each other without gaps.
pub(crate) fn widen(bits: u32, codes: &[u8], out: &mut Vec<u8>) {
    out.resize(codes.len() * 8 / bits as usize, 0);
    match bits {
        2 => {
            for (out, byte) in out.as_chunks_mut::<4>().0.iter_mut().zip(codes) {
                *out = [0, 2, 4, 6].map(|shift| byte >> shift & 3);
            }
        }
        3 => {
            for (out, &[a, b, c]) in out.as_chunks_mut::<8>().0.iter_mut().zip(codes.as_chunks().0) {
                let word = u32::from_le_bytes([a, b, c, 0]);
                *out = [0, 3, 6, 9, 12, 15, 18, 21].map(|shift| (word >> shift & 7) as u8);
            }
        }
        _ => {
            for (out, &[a, b, c]) in out.as_chunks_mut::<4>().0.iter_mut().zip(codes.as_chunks().0) {
                let word = u32::from_le_bytes([a, b, c, 0]);
                *out = [0, 6, 12, 18].map(|shift| (word >> shift & 63) as u8);
            }
        }
    }
}
