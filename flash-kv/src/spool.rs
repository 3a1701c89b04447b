//! A scratch file for bytes that leave memory for a while.

use std::fs::File;
use std::mem;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::KvError;
use crate::disk::{Disk, DiskFile, create_dir_synced, system};

/// Bytes of a block, the unit in which the file is allotted: long enough for fast reads, and little of it is lost to the
/// last block of short contents.
const BLOCK_BYTES: u64 = 256 << 10;

/// A file without a name, in which any number of byte sequences are stored and freed. Nothing of it outlives the process.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// let spool = flash_kv::Spool::new(dir.path())?;
/// let mut writer = spool.writer();
/// writer.write(b"keys")?;
/// writer.write(b"values")?;
/// let stored = writer.finish();
///
/// let mut keys = [0; 4];
/// let mut reader = stored.reader();
/// reader.read(&mut keys)?;
/// assert_eq!(&keys, b"keys");
/// # Ok::<(), flash_kv::KvError>(())
/// ```
#[derive(Debug)]
pub struct Spool {
    disk: Arc<dyn Disk>,
    /// The path is that of the directory.
    file: DiskFile,
    blocks: Mutex<Blocks>,
}

/// Blocks of the file.
#[derive(Debug, Default)]
struct Blocks {
    free: Vec<u64>,
    /// Blocks in use or free.
    n_blocks: u64,
}

/// Writes one byte sequence. What was written is freed if the writer is dropped before [`finish`](Self::finish).
#[derive(Debug)]
pub struct SpoolWriter {
    stored: Spooled,
}

/// A stored byte sequence, freed when it is dropped.
#[derive(Debug)]
pub struct Spooled {
    spool: Arc<Spool>,
    blocks: Vec<u64>,
    len_bytes: u64,
    crc: u32,
}

/// Reads a byte sequence from its beginning.
#[derive(Debug)]
pub struct SpoolReader<'a> {
    stored: &'a Spooled,
    position: u64,
    crc: u32,
}

impl Spool {
    /// Creates the file in `dir`, which is created if necessary.
    ///
    /// # Errors
    /// [`KvError::Io`].
    pub fn new(dir: &Path) -> Result<Arc<Self>, KvError> {
        Self::on(system(), dir)
    }

    fn on(disk: Arc<dyn Disk>, dir: &Path) -> Result<Arc<Self>, KvError> {
        create_dir_synced(&*disk, dir)?;
        let file: File = tempfile::tempfile_in(dir).map_err(KvError::io(dir, "make a temporary file in"))?;
        let file = DiskFile { file, path: dir.to_owned() };
        Ok(Arc::new(Self { disk, file, blocks: Mutex::default() }))
    }

    /// Begins to store a byte sequence.
    pub fn writer(self: &Arc<Self>) -> SpoolWriter {
        let spool = Arc::clone(self);
        SpoolWriter { stored: Spooled { spool, blocks: Vec::new(), len_bytes: 0, crc: 0 } }
    }

    /// Returns the bytes of the file in use.
    pub fn used_bytes(&self) -> u64 {
        let blocks = self.blocks.lock();
        (blocks.n_blocks - blocks.free.len() as u64) * BLOCK_BYTES
    }

    fn path(&self) -> &PathBuf {
        &self.file.path
    }

    fn take_block(&self) -> u64 {
        let blocks = &mut *self.blocks.lock();
        blocks.free.pop().unwrap_or_else(|| {
            blocks.n_blocks += 1;
            blocks.n_blocks - 1
        })
    }

    fn free_blocks(&self, freed: Vec<u64>) {
        let blocks = &mut *self.blocks.lock();
        blocks.free.extend(freed);
        if blocks.free.len() as u64 == blocks.n_blocks {
            *blocks = Blocks::default();
            // The space would be used again, too.
            if let Err(error) = self.disk.set_len(&self.file, 0) {
                tracing::debug!(%error, "an empty scratch file keeps its space");
            }
        }
    }
}

impl SpoolWriter {
    /// Appends `bytes`.
    ///
    /// # Errors
    /// [`KvError::DiskFull`] or [`KvError::Io`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), KvError> {
        let Spooled { spool, blocks, len_bytes, crc } = &mut self.stored;
        let mut rest = bytes;
        while !rest.is_empty() {
            let in_block = *len_bytes % BLOCK_BYTES;
            if in_block == 0 {
                blocks.push(spool.take_block());
            }
            let block = blocks.last().copied().unwrap_or_default();
            let (now, later) = rest.split_at(rest.len().min((BLOCK_BYTES - in_block) as usize));
            let written = spool.disk.write_at(&spool.file, block * BLOCK_BYTES + in_block, now);
            written.map_err(KvError::writing(spool.path(), now.len()))?;
            *crc = crc32c::crc32c_append(*crc, now);
            *len_bytes += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Returns the byte sequence.
    pub fn finish(self) -> Spooled {
        self.stored
    }
}

impl Spooled {
    /// Returns its length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Reads it from its beginning.
    pub fn reader(&self) -> SpoolReader<'_> {
        SpoolReader { stored: self, position: 0, crc: 0 }
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        self.spool.free_blocks(mem::take(&mut self.blocks));
    }
}

impl SpoolReader<'_> {
    /// Reads the next `bytes.len()` bytes.
    ///
    /// # Errors
    /// [`KvError::Io`], also if there are fewer.
    pub fn read(&mut self, bytes: &mut [u8]) -> Result<(), KvError> {
        let Spooled { spool, blocks, len_bytes, .. } = self.stored;
        if self.position + bytes.len() as u64 > *len_bytes {
            return Err(KvError::io(spool.path(), "read a temporary file in")(
                std::io::ErrorKind::UnexpectedEof.into(),
            ));
        }
        let mut rest = &mut *bytes;
        while !rest.is_empty() {
            let in_block = self.position % BLOCK_BYTES;
            let block = blocks[(self.position / BLOCK_BYTES) as usize];
            let len = rest.len().min((BLOCK_BYTES - in_block) as usize);
            let (now, later) = rest.split_at_mut(len);
            let read = spool.file.file.read_exact_at(now, block * BLOCK_BYTES + in_block);
            read.map_err(KvError::io(spool.path(), "read a temporary file in"))?;
            self.crc = crc32c::crc32c_append(self.crc, now);
            self.position += len as u64;
            rest = later;
        }
        Ok(())
    }

    /// Checks that all bytes were read, and that they are those that were written.
    ///
    /// # Errors
    /// [`KvError::Spooled`].
    pub fn finish(self) -> Result<(), KvError> {
        let Spooled { spool, len_bytes, crc, .. } = self.stored;
        match (self.position, self.crc) == (*len_bytes, *crc) {
            true => Ok(()),
            false => Err(KvError::Spooled { path: spool.path().clone(), wanted: *crc, got: self.crc }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content(seed: usize, len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 + seed * 17 + i / 251) as u8).collect()
    }

    fn store(spool: &Arc<Spool>, bytes: &[u8], piece: usize) -> Spooled {
        let mut writer = spool.writer();
        bytes.chunks(piece).for_each(|piece| writer.write(piece).unwrap());
        writer.finish()
    }

    fn read(stored: &Spooled, piece: usize) -> Result<Vec<u8>, KvError> {
        let mut bytes = vec![0; stored.len_bytes() as usize];
        let mut reader = stored.reader();
        bytes.chunks_mut(piece).try_for_each(|piece| reader.read(piece))?;
        reader.finish()?;
        Ok(bytes)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

        #[test]
        fn sequences_come_back_however_others_come_and_go(
            steps in prop::collection::vec((any::<bool>(), 0_usize..900_000, 1_usize..400_000), 1..20),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let spool = Spool::new(dir.path()).unwrap();
            let mut stored: Vec<(usize, Spooled)> = Vec::new();
            for (idx, (is_freed, len, piece)) in steps.into_iter().enumerate() {
                if is_freed && !stored.is_empty() {
                    stored.swap_remove(len % stored.len());
                } else {
                    stored.push((idx, store(&spool, &content(idx, len), piece)));
                }
                for (seed, stored) in &stored {
                    let len = stored.len_bytes() as usize;
                    prop_assert!(read(stored, piece).unwrap() == content(*seed, len));
                }
            }
            stored.clear();
            prop_assert_eq!(spool.used_bytes(), 0);
            prop_assert_eq!(spool.file.file.metadata().unwrap().len(), 0, "its space is given back");
        }
    }

    #[test]
    fn the_file_has_no_name_and_freed_blocks_are_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(dir.path()).unwrap();
        let [a, b] = [1, 2].map(|seed| store(&spool, &content(seed, 300_000), 1000));
        drop(a);
        let c = store(&spool, &content(3, 500_000), 5000);
        assert_eq!(spool.used_bytes(), 4 * BLOCK_BYTES);
        assert_eq!(spool.file.file.metadata().unwrap().len(), 3 * BLOCK_BYTES + (300_000 - BLOCK_BYTES));
        assert_eq!(
            (read(&b, 7000).unwrap(), read(&c, 7000).unwrap()),
            (content(2, 300_000), content(3, 500_000))
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn damaged_and_missing_bytes_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(dir.path()).unwrap();
        let stored = store(&spool, &content(1, 1000), 1000);
        let mut more = vec![0; 1001];
        assert!(matches!(stored.reader().read(&mut more), Err(KvError::Io { .. })));
        let mut reader = stored.reader();
        reader.read(&mut more[..999]).unwrap();
        assert!(matches!(reader.finish(), Err(KvError::Spooled { .. })), "a part is not all");
        spool.file.file.write_all_at(&[77], 500).unwrap();
        let error = read(&stored, 100).unwrap_err();
        assert!(error.to_string().contains("computed"), "{error}");
        spool.file.file.set_len(10).unwrap();
        assert!(matches!(read(&stored, 100), Err(KvError::Io { .. })));
    }

    #[test]
    fn what_was_written_before_an_error_is_freed() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(dir.path()).unwrap();
        let mut writer = spool.writer();
        writer.write(&content(1, 700_000)).unwrap();
        drop(writer);
        assert_eq!(spool.used_bytes(), 0);
    }
}
