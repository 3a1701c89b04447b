//! Reads the stored values of a piece in the order they are written, a chunk at a time.

use flash_io::{Catalog, Shard};

use super::parameter::{Piece, Rows};
use crate::error::ConvertError;
use crate::scratch::{CHUNK_VALUES, Scratch};
use crate::source;

/// [`CHUNK_VALUES`] as u64.
const CHUNK: u64 = CHUNK_VALUES as u64;

/// Reads values of `piece`, starting at `first`, into `scratch.stored` and returns their number.
///
/// At least one value is read, and a whole number of groups if the rows of the parameter are.
pub(super) fn gather(
    scratch: &mut Scratch,
    catalog: &Catalog,
    piece: &Piece,
    first: u64,
) -> Result<usize, ConvertError> {
    let source = Source { shard: &catalog.shards()[piece.tensor.shard.0], piece };
    let rows = piece.rows;
    if rows.is_transposed {
        source.transposed(scratch, first)
    } else if rows.step == 1 {
        let len = (piece.n_values() - first).min(CHUNK);
        source.run(rows, first, len, &mut scratch.stored)
    } else if rows.step * rows.n_cols <= CHUNK {
        source.strided(scratch, first)
    } else {
        let len = (rows.n_cols - first % rows.n_cols).min(CHUNK);
        source.run(rows, first, len, &mut scratch.stored)
    }
}

/// Reads all values of a piece that is a whole tensor.
pub(super) fn read_whole(catalog: &Catalog, piece: &Piece, bytes: &mut [u8]) -> Result<(), ConvertError> {
    Source { shard: &catalog.shards()[piece.tensor.shard.0], piece }.read((0, 0), bytes)
}

/// A piece and the shard that holds it.
struct Source<'a> {
    shard: &'a Shard,
    piece: &'a Piece,
}

impl Source<'_> {
    /// Reads contiguous values.
    fn run(&self, rows: Rows, first: u64, len: u64, out: &mut [u8]) -> Result<usize, ConvertError> {
        let len = len as usize;
        self.read(rows.place(first), &mut out[..len * self.size()])?;
        Ok(len)
    }

    /// Reads whole strided rows with one read that includes the rows between them.
    fn strided(&self, scratch: &mut Scratch, first: u64) -> Result<usize, ConvertError> {
        let Rows { count, step, n_cols, .. } = self.piece.rows;
        let n_rows = (CHUNK / (step * n_cols)).min(count - first / n_cols) as usize;
        let row_bytes = n_cols as usize * self.size();
        let stride_bytes = step as usize * row_bytes;
        let read = &mut scratch.out[..(n_rows - 1) * stride_bytes + row_bytes];
        self.read(self.piece.rows.place(first), read)?;
        for (row, from) in scratch.stored.chunks_exact_mut(row_bytes).zip(read.chunks(stride_bytes)) {
            row.copy_from_slice(&from[..row_bytes]);
        }
        Ok(n_rows * n_cols as usize)
    }

    /// Reads whole columns, or a part of one.
    fn transposed(&self, scratch: &mut Scratch, first: u64) -> Result<usize, ConvertError> {
        let rows = self.piece.rows;
        let size = self.size();
        let (row, col) = rows.place(first);
        let n_rows = (rows.count - first % rows.count).min(CHUNK);
        let n_cols = if n_rows == rows.count { (CHUNK / n_rows).min(rows.n_cols - col) } else { 1 };
        let [n_rows, n_cols] = [n_rows as usize, n_cols as usize];
        let row_bytes = n_cols * size;
        let read = &mut scratch.out[..n_rows * row_bytes];
        if n_cols as u64 == rows.n_cols && rows.step == 1 {
            self.read((row, col), read)?;
        } else {
            for (idx, from) in read.chunks_exact_mut(row_bytes).enumerate() {
                self.read((row + idx as u64 * rows.step, col), from)?;
            }
        }
        for (col, out) in scratch.stored.chunks_exact_mut(n_rows * size).take(n_cols).enumerate() {
            for (value, from) in out.chunks_exact_mut(size).zip(read.chunks_exact(row_bytes)) {
                value.copy_from_slice(&from[col * size..][..size]);
            }
        }
        Ok(n_rows * n_cols)
    }

    /// Returns the size of a value in bytes.
    const fn size(&self) -> usize {
        self.piece.encoding.size_bytes()
    }

    /// Fills `bytes` from a position in the matrix.
    fn read(&self, (row, col): (u64, u64), bytes: &mut [u8]) -> Result<(), ConvertError> {
        let tensor = &self.piece.tensor;
        let first = row * self.piece.rows.n_cols + col;
        let offset = tensor.span.start + first * self.size() as u64;
        source::read(self.shard, tensor, offset, bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use flash_io::{IoMode, Tensor};
    use serde_json::json;

    use super::super::parameter::Encoding;
    use super::*;

    /// Returns a catalog with one tensor of random bytes, and these bytes.
    fn catalog(dir: &tempfile::TempDir, shape: [u64; 2]) -> (Catalog, Vec<u8>) {
        let n_bytes = shape[0] * shape[1];
        let header = json!({"w": {"dtype": "U8", "shape": shape, "data_offsets": [0, n_bytes]}}).to_string();
        let random = |i: u64| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8;
        let bytes: Vec<u8> = (0..n_bytes).map(random).collect();
        let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes].concat();
        fs::write(dir.path().join("model.safetensors"), file).unwrap();
        (Catalog::open(dir.path(), IoMode::Pread).unwrap(), bytes)
    }

    #[test]
    fn pieces_of_any_layout_are_read_completely_and_in_order() {
        let rows =
            |first, count, step, n_cols, is_transposed| Rows { first, count, step, n_cols, is_transposed };
        // Chunks end within a row, between rows and between columns; rows and columns exceed a chunk; one chunk is enough.
        for (shape, rows) in [
            ([700, 1000], rows(0, 700, 1, 1000, false)),
            ([700, 1000], rows(3, 500, 1, 1000, false)),
            ([700, 1000], rows(1, 350, 2, 1000, false)),
            ([7, 100_000], rows(1, 3, 2, 100_000, false)),
            ([4, 140_000], rows(0, 2, 2, 140_000, false)),
            ([700_000, 1], rows(1, 350_000, 2, 1, false)),
            ([700, 1000], rows(128, 256, 1, 1000, true)),
            ([700, 1000], rows(2, 233, 3, 1000, true)),
            ([256, 512], rows(0, 256, 1, 512, true)),
            ([140_000, 3], rows(0, 140_000, 1, 3, true)),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (catalog, bytes) = catalog(&dir, shape);
            let tensor: Tensor = catalog.get("w").unwrap().clone();
            let piece = Piece { tensor, encoding: Encoding::Bytes, rows };
            let mut scratch = Scratch::new();
            let mut found = Vec::new();
            while (found.len() as u64) < piece.n_values() {
                let first = found.len() as u64;
                let len = gather(&mut scratch, &catalog, &piece, first).unwrap();
                assert!(0 < len && len <= CHUNK_VALUES);
                found.extend_from_slice(&scratch.stored[..len]);
            }
            let wanted = (0..piece.n_values()).map(|value_idx| {
                let (row, col) = rows.place(value_idx);
                bytes[(row * rows.n_cols + col) as usize]
            });
            assert!(found.into_iter().eq(wanted), "{rows:?}");
        }
    }
}
