//! Parking: a cache whose memory is given back while its tokens wait on disk.

use flash_kv::{KvShape, SpoolReader, SpoolWriter, Spooled};
use mlx_rs::Array;
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};

use super::fork::written_bytes;
use super::layer::PagedLayer;
use super::{KvCache, LayerKv, Store};
use crate::ModelError;

/// The tokens of a cache that was moved to disk.
#[derive(Debug)]
pub(crate) struct ParkedCache {
    token_ids: Vec<u32>,
    stored_tokens: usize,
    stored_exactly: bool,
    written_tokens: usize,
    /// The pages of each paged layer.
    pages: Vec<ParkedPages>,
    /// Everything that was in memory, layer by layer.
    bytes: Spooled,
}

/// The pages of a layer.
#[derive(Debug)]
struct ParkedPages {
    window_start: usize,
    end: usize,
    /// Whether the record of each sealed page was in memory. The others are in the file of pages, or evicted.
    in_memory: Vec<bool>,
}

impl ParkedCache {
    /// Returns the ids of the held tokens.
    pub(crate) fn held(&self) -> &[u32] {
        &self.token_ids
    }
}

impl KvCache {
    /// Writes all that is in memory to `out`, after which the cache can be dropped. Tokens that were not committed are taken
    /// back.
    ///
    /// # Errors
    /// Errors of the disk. The cache is unchanged then.
    pub(crate) fn park(&mut self, mut out: SpoolWriter) -> Result<ParkedCache, ModelError> {
        self.commit(0)?;
        if let Store::Paged(pages) = &self.store {
            // Pages that wait to be written are on disk from now on.
            pages.flush()?;
            pages.sweep();
        }
        let mut pages = Vec::new();
        let shape = self.plain_shape();
        for layer in &self.layers {
            pages.extend(layer.park(&mut out, shape, self.written_tokens)?);
        }
        Ok(ParkedCache {
            token_ids: self.held().to_vec(),
            stored_tokens: self.stored_tokens,
            stored_exactly: self.stored_exactly,
            written_tokens: self.written_tokens,
            pages,
            bytes: out.finish(),
        })
    }

    /// Returns the shape of contiguous layers, if they are.
    fn plain_shape(&self) -> Option<KvShape> {
        match &self.store {
            Store::Plain(tail) => Some(tail.shape()),
            Store::Paged(_) => None,
        }
    }

    /// Restores a parked cache, which was planned alike and has the same file of pages, to this one, which is empty.
    ///
    /// # Errors
    /// Errors of the disk. This cache is unusable then, and the parked one is unchanged.
    pub(crate) fn unpark(&mut self, parked: &ParkedCache) -> Result<(), ModelError> {
        let tokens = parked.token_ids.len();
        match &mut self.store {
            Store::Plain(tail) => {
                tail.append(tokens)?;
            }
            Store::Paged(pages) => pages.append_tokens(0, &parked.token_ids),
        }
        let shape = self.plain_shape();
        let mut bytes = parked.bytes.reader();
        let mut pages = parked.pages.iter();
        for layer in &mut self.layers {
            layer.unpark(&mut bytes, shape, parked.written_tokens, &mut pages)?;
        }
        bytes.finish()?;
        self.token_ids.clone_from(&parked.token_ids);
        self.held_tokens = tokens;
        (self.stored_tokens, self.stored_exactly) = (parked.stored_tokens, parked.stored_exactly);
        self.written_tokens = parked.written_tokens;
        Ok(())
    }
}

impl LayerKv {
    /// Writes what the layer has in memory, of which `written_tokens` have been written. `shape` is that of contiguous
    /// layers.
    fn park(
        &self,
        out: &mut SpoolWriter,
        shape: Option<KvShape>,
        written_tokens: usize,
    ) -> Result<Option<ParkedPages>, ModelError> {
        match (self, shape) {
            (Self::Shared(buffers), Some(shape)) => {
                let buffers = buffers.lock();
                for part in [&buffers.keys].into_iter().chain(&buffers.values) {
                    let head_bytes = part.len() / shape.kv_heads;
                    let len = written_bytes(shape, written_tokens, head_bytes);
                    part.as_slice().chunks_exact(head_bytes).try_for_each(|head| out.write(&head[..len]))?;
                }
            }
            (Self::Arrays { keys, values }, Some(_)) => {
                for array in [keys].into_iter().chain(values) {
                    let written = array.try_index((.., .., ..written_tokens as i32, ..))?.reshape(&[-1])?;
                    written.eval()?;
                    out.write(bytemuck::cast_slice(written.as_slice::<f32>()))?;
                }
            }
            (Self::Paged(layer), None) => return layer.lock().park(out).map(Some),
            (Self::SharedState(_) | Self::ArrayState(_), _) => {
                let mut state = vec![0; self.state_bytes().unwrap_or(0)];
                self.copy_state(&mut state)?;
                out.write(&state)?;
            }
            (Self::Nothing, _) => {}
            _ => unreachable!("layers are contiguous or in pages"),
        }
        Ok(None)
    }

    /// Reads what [`park`](Self::park) wrote. `pages` are those of this and the following paged layers.
    fn unpark<'p>(
        &mut self,
        bytes: &mut SpoolReader<'_>,
        shape: Option<KvShape>,
        written_tokens: usize,
        mut pages: impl Iterator<Item = &'p ParkedPages>,
    ) -> Result<(), ModelError> {
        match (&mut *self, shape) {
            (Self::Shared(buffers), Some(shape)) => {
                let buffers = &mut *buffers.lock();
                for part in [&mut buffers.keys].into_iter().chain(&mut buffers.values) {
                    let head_bytes = part.len() / shape.kv_heads;
                    let len = written_bytes(shape, written_tokens, head_bytes);
                    let mut heads = part.as_mut_slice().chunks_exact_mut(head_bytes);
                    heads.try_for_each(|head| bytes.read(&mut head[..len]))?;
                }
            }
            (Self::Arrays { .. }, Some(_)) if written_tokens == 0 => {}
            (Self::Arrays { keys, values }, Some(shape)) => {
                let dims = [1, shape.kv_heads as i32, written_tokens as i32, shape.head_dim as i32];
                for array in [keys].into_iter().chain(values) {
                    let mut numbers = vec![0.0_f32; dims.iter().product::<i32>() as usize];
                    bytes.read(bytemuck::cast_slice_mut(&mut numbers))?;
                    let written = Array::from_slice(&numbers, &dims);
                    array.try_index_mut((.., .., ..written_tokens as i32, ..), &written)?;
                    // In place: nothing else references the array.
                    array.eval()?;
                }
            }
            (Self::Paged(layer), None) => {
                let pages = pages.next().expect("as many paged layers were parked");
                layer.lock().unpark(bytes, pages)?;
            }
            (Self::SharedState(_) | Self::ArrayState(_), _) => {
                let mut state = vec![0; self.state_bytes().unwrap_or(0)];
                bytes.read(&mut state)?;
                self.fill_state(&state)?;
            }
            (Self::Nothing, _) => {}
            _ => unreachable!("layers are contiguous or in pages"),
        }
        Ok(())
    }
}

impl PagedLayer {
    /// Writes the sealed pages in memory, then the pages of the window.
    fn park(&self, out: &mut SpoolWriter) -> Result<ParkedPages, ModelError> {
        let records = self.sealed_records();
        records.iter().flatten().try_for_each(|record| out.write((**record).as_ref()))?;
        for page_idx in self.window_pages() {
            out.write(self.window_record(page_idx))?;
        }
        let in_memory = records.iter().map(Option::is_some).collect();
        Ok(ParkedPages { window_start: self.window_start(), end: self.end(), in_memory })
    }

    fn unpark(&mut self, bytes: &mut SpoolReader<'_>, parked: &ParkedPages) -> Result<(), ModelError> {
        let visible: Vec<usize> = self.visible(parked.in_memory.len()).collect();
        for (page_idx, in_memory) in parked.in_memory.iter().enumerate() {
            let fill = in_memory.then_some(|record: &mut [u8]| Ok(bytes.read(record)?));
            self.unpark_sealed(fill, visible.binary_search(&page_idx).is_err())?;
        }
        self.set_window(parked.window_start, parked.end);
        for page_idx in self.window_pages() {
            bytes.read(self.window_page(page_idx))?;
        }
        Ok(())
    }
}
