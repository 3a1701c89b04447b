//! The seam to MLX: arrays over memory that we own, and functions of ours in its graph.
//!
//! The only module that calls MLX's C interface itself; everything else uses `mlx-rs`.

#[cfg(target_os = "linux")]
pub(crate) mod kernel;
pub(crate) mod quantized;

use std::ffi::{c_int, c_void};
use std::fmt::Debug;

use flash_io::{PageBuf, Slot};
use mlx_rs::error::Exception;
#[cfg(any(test, not(target_os = "linux")))]
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype};

/// Memory that an array may be laid over.
///
/// # Safety
/// [`as_mut_ptr`](Self::as_mut_ptr) names memory that is valid, and at the same address, for as long as the owner
/// lives, wherever the owner is moved; it lies at an OS page, and the 16 bytes before it are the owner's too.
#[expect(unsafe_code, reason = "what the implementation promises, MLX relies on")]
pub(crate) unsafe trait Pages: Debug + Send + 'static {
    /// The first byte of data.
    fn as_mut_ptr(&mut self) -> *mut u8;
    /// Bytes of data.
    fn len_bytes(&self) -> usize;
}

// SAFETY: a PageBuf is an anonymous mapping with a page in front of its data; moving the handle moves no byte of it.
#[expect(unsafe_code, reason = "what the implementation promises, MLX relies on")]
unsafe impl Pages for PageBuf {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        PageBuf::as_mut_ptr(self)
    }
    fn len_bytes(&self) -> usize {
        self.len()
    }
}

/// A slot, and what is dropped right before it.
#[derive(Debug)]
struct Lent<W>(W, Slot);

// SAFETY: a slot is a PageBuf that goes back to its pool when it is dropped, so nobody writes to it before.
#[expect(unsafe_code, reason = "what the implementation promises, MLX relies on")]
unsafe impl<W: Debug + Send + 'static> Pages for Lent<W> {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.1.as_mut_ptr()
    }
    fn len_bytes(&self) -> usize {
        self.1.len()
    }
}

/// An array over `pages`, without a copy. The pages are dropped with the last array that shares them, wherever that
/// happens: a slot cannot be filled anew while anything still computes with it.
///
/// # Errors
/// If MLX refuses, or has no memory for the array's handle; the pages are dropped then.
///
/// # Panics
/// If the shape takes more bytes than there are.
#[expect(unsafe_code, reason = "hands memory to MLX")]
pub(crate) fn alias<P: Pages>(pages: P, shape: &[i32], dtype: Dtype) -> Result<Array, Exception> {
    unsafe extern "C" fn drop_pages<P>(payload: *mut c_void) {
        // SAFETY: `payload` is the box leaked below, and the native library calls this once, whatever fails.
        drop(unsafe { Box::from_raw(payload.cast::<P>()) });
    }
    let wanted_bytes = shape.iter().map(|&extent| extent as usize).product::<usize>() * size_of_dtype(dtype);
    assert!(
        wanted_bytes <= pages.len_bytes(),
        "{wanted_bytes} B of array over {} B of pages",
        pages.len_bytes()
    );

    let mut pages = Box::new(pages);
    let data = pages.as_mut_ptr().cast::<c_void>();
    let payload = Box::into_raw(pages).cast::<c_void>();
    let n_dims = shape.len() as c_int;
    // SAFETY: by the contract of `Pages` the memory is valid until the payload is dropped, and the word before it is
    // free for MLX's header; the shape was checked against its length. The payload is given away, also on failure.
    let handle =
        unsafe { native_alias(data, shape.as_ptr(), n_dims, dtype.into(), payload, Some(drop_pages::<P>)) };
    if handle.ctx.is_null() {
        return Err(Exception::custom("MLX refused an array over foreign memory"));
    }
    // SAFETY: a fresh handle that nobody else frees.
    Ok(unsafe { Array::from_ptr(handle) })
}

// On Linux mlx-c copies such memory, so the native library brings a function that does not.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "foreign function")]
unsafe extern "C" {
    #[link_name = "flash_array_alias"]
    fn native_alias(
        data: *mut c_void,
        shape: *const c_int,
        dim: c_int,
        dtype: mlx_sys::mlx_dtype,
        payload: *mut c_void,
        dtor: Option<unsafe extern "C" fn(*mut c_void)>,
    ) -> mlx_sys::mlx_array;
}

// On Apple silicon mlx-c wraps page-aligned memory in a Metal buffer without a copy. Where it fails it does not say whether it
// has run the destructor: what it was given is leaked then, if it has not, rather than freed twice.
#[cfg(not(target_os = "linux"))]
use mlx_sys::mlx_array_new_data_managed_payload as native_alias;

/// A tensor in a bundle's bytes.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// Where its first byte lies.
    pub offset: usize,
    pub shape: Vec<i32>,
    pub dtype: Dtype,
}

impl View {
    pub(crate) fn bytes(&self) -> usize {
        self.shape.iter().map(|&extent| extent as usize).product::<usize>() * size_of_dtype(self.dtype)
    }
}

/// The tensors of a loaded bundle, as evaluated views of its slot, without a copy. When the last of them is gone, the slot
/// goes back and `witness` is dropped, on the thread that had it.
///
/// Writers leave the data of a safetensors file at any byte, and views carry that offset. CPUs load from there as well;
/// Metal needs whole elements, so there tensors are moved within the slot first.
pub(crate) fn views<W: Debug + Send + 'static>(
    mut slot: Slot,
    witness: W,
    views: &[View],
) -> Result<Vec<Array>, Exception> {
    let mut views = views.to_vec();
    if cfg!(target_os = "macos") {
        realign(slot.as_mut_slice(), &mut views);
    }
    // A dimension is at most i32::MAX, and a bundle may be longer: count in rows of a block.
    let n_rows = dim_of(slot.len() / ROW_BYTES)?;
    let whole = alias(Lent(witness, slot), &[n_rows, ROW_BYTES as i32], Dtype::Uint8)?;
    let views = views.iter().map(|view| view_of(&whole, view)).collect::<Result<Vec<_>, _>>()?;
    // Once, rather than as a part of every graph that uses them.
    if cfg!(not(target_os = "linux")) {
        mlx_rs::transforms::eval(&views)?;
    }
    Ok(views)
}

/// The extent of a dimension, which MLX counts in 32 bits.
fn dim_of(extent: usize) -> Result<i32, Exception> {
    let too_long = || Exception::custom(format!("a dimension of {extent}, and MLX's have 31 bits"));
    i32::try_from(extent).map_err(|_| too_long())
}

/// Slots are a whole number of blocks of direct I/O.
const ROW_BYTES: usize = flash_io::DIRECT_ALIGN;
/// What the largest element of a weight is aligned to.
const ELEMENT_ALIGN: usize = 4;

/// MLX has no operation that does this at once, and five of them for each tensor are 20 µs.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "foreign function")]
fn view_of(whole: &Array, view: &View) -> Result<Array, Exception> {
    unsafe extern "C" {
        #[link_name = "flash_array_view"]
        fn native_view(
            whole: mlx_sys::mlx_array,
            offset: usize,
            shape: *const c_int,
            dim: c_int,
            dtype: mlx_sys::mlx_dtype,
        ) -> mlx_sys::mlx_array;
    }
    assert!(view.offset + view.bytes() <= whole.size(), "a tensor lies in its slot");
    let (shape, dim) = (view.shape.as_ptr(), view.shape.len() as c_int);
    // SAFETY: `whole` is an evaluated array of bytes that shares its memory with the view for as long as that lives, and
    // the view lies in it.
    let handle = unsafe { native_view(whole.as_ptr(), view.offset, shape, dim, view.dtype.into()) };
    if handle.ctx.is_null() {
        return Err(Exception::custom("MLX refused a view"));
    }
    // SAFETY: a fresh handle that nobody else frees.
    Ok(unsafe { Array::from_ptr(handle) })
}

#[cfg(not(target_os = "linux"))]
use view_by_operations as view_of;

/// A view made of MLX's operations. A tensor of 2 GiB and more must begin at a whole element, as [`realign`] leaves it.
#[cfg(any(test, not(target_os = "linux")))]
fn view_by_operations(whole: &Array, view: &View) -> Result<Array, Exception> {
    let bytes = view.bytes();
    let (first, end) = (view.offset / ROW_BYTES, (view.offset + bytes).div_ceil(ROW_BYTES));
    let rows = whole.try_index(dim_of(first)?..dim_of(end)?)?;
    let start = view.offset - first * ROW_BYTES;
    let item_bytes = size_of_dtype(view.dtype);
    // As bytes where they can be counted, for those may begin anywhere; else as elements, which are fewer.
    if let Ok(end) = dim_of((end - first) * ROW_BYTES).and_then(|_| dim_of(start + bytes)) {
        let bytes = rows.reshape(&[-1])?.try_index(start as i32..end)?;
        return bytes.view_dtype(view.dtype)?.reshape(&view.shape);
    }
    if !start.is_multiple_of(item_bytes) {
        return Err(Exception::custom(format!("a tensor of {bytes} B begins within an element")));
    }
    let (start, len) = (start / item_bytes, bytes / item_bytes);
    dim_of((end - first) * ROW_BYTES / item_bytes)?;
    let elements = rows.view_dtype(view.dtype)?.reshape(&[-1])?;
    elements.try_index(dim_of(start)?..dim_of(start + len)?)?.reshape(&view.shape)
}

/// Moves tensors towards the front of the slot, by less than an element, so that each begins at a whole one.
///
/// Tensors that follow each other in a file are all off by the same few bytes, as long as each is a whole number of
/// elements; one that is not follows no further than its own length rounded down allows, and stays where it is.
fn realign(bytes: &mut [u8], views: &mut [View]) {
    let mut order: Vec<usize> = (0..views.len()).collect();
    order.sort_by_key(|&idx| views[idx].offset);
    let mut free_from = 0;
    for idx in order {
        let view = &mut views[idx];
        let (from, len) = (view.offset, view.bytes());
        let to = from / ELEMENT_ALIGN * ELEMENT_ALIGN;
        if to >= free_from {
            bytes.copy_within(from..from + len, to);
            view.offset = to;
        }
        free_from = view.offset + len;
    }
}

/// Size of one element.
pub(crate) fn size_of_dtype(dtype: Dtype) -> usize {
    match dtype {
        Dtype::Bool | Dtype::Uint8 | Dtype::Int8 => 1,
        Dtype::Uint16 | Dtype::Int16 | Dtype::Float16 | Dtype::Bfloat16 => 2,
        Dtype::Uint32 | Dtype::Int32 | Dtype::Float32 => 4,
        Dtype::Uint64 | Dtype::Int64 | Dtype::Float64 | Dtype::Complex64 => 8,
    }
}

/// The address of an evaluated array's data, to tell a view from a copy.
#[cfg(test)]
#[expect(unsafe_code, reason = "reads an address, not what is there")]
pub(crate) fn address(array: &Array) -> usize {
    array.eval().expect("evaluates");
    // SAFETY: the array is evaluated, and only its address is used.
    unsafe { mlx_sys::mlx_array_data_uint8(array.as_ptr()) as usize }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use flash_io::{Budget, SlotPool};
    use mlx_rs::ops::indexing::TryIndexOp;

    use super::*;

    #[derive(Debug)]
    struct Tracked(PageBuf, Arc<AtomicBool>);

    // SAFETY: as for PageBuf.
    #[expect(unsafe_code, reason = "what the implementation promises, MLX relies on")]
    unsafe impl Pages for Tracked {
        fn as_mut_ptr(&mut self) -> *mut u8 {
            self.0.as_mut_ptr()
        }
        fn len_bytes(&self) -> usize {
            self.0.len()
        }
    }

    impl Drop for Tracked {
        fn drop(&mut self) {
            self.1.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn alias_reads_our_memory_in_place_and_drops_it_last() {
        let budget = Budget::new(1 << 20);
        let mut buf = PageBuf::new(4096, &budget).unwrap();
        buf.as_mut_slice()[..8].copy_from_slice(&[0, 0, 128, 63, 0, 0, 0, 64]);
        let (address_of_buf, dropped) = (buf.as_ptr().addr(), Arc::new(AtomicBool::new(false)));
        let array = alias(Tracked(buf, Arc::clone(&dropped)), &[2], Dtype::Float32).unwrap();
        assert_eq!(address(&array), address_of_buf);
        let view = array.try_index(1..2).unwrap();
        assert_eq!(view.as_slice::<f32>(), [2.0]);
        drop(array);
        assert!(!dropped.load(Ordering::SeqCst), "the view still needs it");
        drop(view);
        assert!(dropped.load(Ordering::SeqCst));
        assert_eq!(budget.used_bytes(), 0);
    }

    /// What the native library offers to tests.
    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "foreign function")]
    fn fail_next_handle() {
        unsafe extern "C" {
            fn flash_fail_next_handle();
        }
        // SAFETY: it sets a flag of this thread.
        unsafe { flash_fail_next_handle() };
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_handle_that_cannot_be_allocated_drops_its_memory_once() {
        let budget = Budget::new(1 << 20);
        let dropped = Arc::new(AtomicUsize::new(0));
        #[derive(Debug)]
        struct Counted(PageBuf, Arc<AtomicUsize>);
        // SAFETY: as that of the buffer in it.
        #[expect(unsafe_code, reason = "forwards")]
        unsafe impl Pages for Counted {
            fn as_mut_ptr(&mut self) -> *mut u8 {
                self.0.as_mut_ptr()
            }
            fn len_bytes(&self) -> usize {
                self.0.len()
            }
        }
        impl Drop for Counted {
            fn drop(&mut self) {
                self.1.fetch_add(1, Ordering::SeqCst);
            }
        }
        let pages = || Counted(PageBuf::new(4096, &budget).unwrap(), Arc::clone(&dropped));
        fail_next_handle();
        assert!(alias(pages(), &[2], Dtype::Float32).is_err());
        assert_eq!((dropped.load(Ordering::SeqCst), budget.used_bytes()), (1, 0));
        drop(alias(pages(), &[2], Dtype::Float32).unwrap());
        assert_eq!((dropped.load(Ordering::SeqCst), budget.used_bytes()), (2, 0));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_view_that_cannot_be_allocated_returns_the_slot() {
        let pool = SlotPool::new(&Budget::new(1 << 20), 8192, 1).unwrap();
        let wanted = [View { offset: 8, shape: vec![3], dtype: Dtype::Float32 }];
        let whole = alias(Lent((), pool.try_acquire().unwrap()), &[2, 4096], Dtype::Uint8).unwrap();
        fail_next_handle();
        assert!(view_of(&whole, &wanted[0]).is_err());
        drop(whole);
        assert!(pool.try_acquire().is_some());
    }

    /// A slot whose pages are not there before they are written to.
    #[cfg(target_os = "linux")]
    fn sparse_slot(len_bytes: usize) -> Slot {
        Slot::alone(&Budget::new(1 << 40), len_bytes).unwrap()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_tensor_behind_two_gib_of_others_is_where_it_is() {
        let offset = (2 << 30) + 4096 + 12;
        for view_of in [view_of, view_by_operations] {
            let mut slot = sparse_slot((2 << 30) + 8192);
            slot.as_mut_slice()[offset..][..8].copy_from_slice(&[0, 0, 128, 63, 0, 0, 0, 64]);
            let base = slot.as_ptr().addr();
            let n_rows = (slot.len() / ROW_BYTES) as i32;
            let whole = alias(Lent((), slot), &[n_rows, ROW_BYTES as i32], Dtype::Uint8).unwrap();
            let view = view_of(&whole, &View { offset, shape: vec![2], dtype: Dtype::Float32 }).unwrap();
            assert_eq!(view.as_slice::<f32>(), [1.0, 2.0]);
            assert_eq!(address(&view), base + offset);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_tensor_of_more_than_two_gib_is_whole() {
        // 2.25 GiB of f32.
        let (n_rows, offset) = (9 << 10, 16);
        let bytes = n_rows << 18;
        let view = View { offset, shape: vec![n_rows as i32, 1 << 16], dtype: Dtype::Float32 };
        assert!(view.bytes() == bytes && i32::try_from(bytes).is_err());
        for view_of in [view_of, view_by_operations] {
            let mut slot = sparse_slot(bytes + 4096);
            slot.as_mut_slice()[offset + bytes - 4..][..4].copy_from_slice(&[0, 0, 0, 64]);
            let (base, rows) = (slot.as_ptr().addr(), (slot.len() / ROW_BYTES) as i32);
            let whole = alias(Lent((), slot), &[rows, ROW_BYTES as i32], Dtype::Uint8).unwrap();
            let tensor = view_of(&whole, &view).unwrap();
            assert_eq!(address(&tensor), base + offset, "no copy was made");
            let last = tensor.try_index((n_rows as i32 - 1, (1 << 16) - 1)).unwrap();
            assert_eq!(last.item_exact::<f32>(), 2.0);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_long_tensor_within_an_element_is_an_error() {
        let slot = sparse_slot((2 << 30) + 8192);
        let rows = (slot.len() / ROW_BYTES) as i32;
        let whole = alias(Lent((), slot), &[rows, ROW_BYTES as i32], Dtype::Uint8).unwrap();
        let view = View { offset: 2, shape: vec![1 << 29], dtype: Dtype::Float32 };
        let error = view_by_operations(&whole, &view).unwrap_err();
        assert!(error.what().contains("within an element"), "{error}");
    }

    #[test]
    fn a_dimension_of_more_than_31_bits_is_an_error() {
        assert_eq!(dim_of(i32::MAX as usize).unwrap(), i32::MAX);
        assert!(dim_of(1 << 31).unwrap_err().what().contains("2147483648"));
    }

    #[test]
    fn an_output_that_takes_the_memory_of_a_slot_keeps_the_slot() {
        let pool = SlotPool::new(&Budget::new(1 << 20), 8192, 1).unwrap();
        let mut slot = pool.try_acquire().unwrap();
        slot.as_mut_slice()[4..][..8].copy_from_slice(&[0, 0, 128, 63, 0, 0, 0, 64]);
        let place = slot.as_ptr().addr() + 4;
        // One tensor, whose layer has let go of it: nothing but the operation has it, so MLX may write where it lies.
        let wanted = [View { offset: 4, shape: vec![2], dtype: Dtype::Float32 }];
        let weight = views(slot, (), &wanted).unwrap().remove(0);
        let sum = weight.add(Array::from_f32(1.0)).unwrap();
        drop(weight);
        sum.eval().unwrap();
        let is_in_place = address(&sum) == place;
        assert!(is_in_place || cfg!(not(target_os = "linux")), "MLX does write there");
        assert_eq!(pool.try_acquire().is_none(), is_in_place, "whoever has the memory has the slot");
        assert_eq!(sum.as_slice::<f32>(), [2.0, 3.0]);
        drop(sum);
        assert!(pool.acquire_within(std::time::Duration::from_secs(10)).is_some());
    }

    fn patterned(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i * 7 % 251) as u8).collect()
    }

    #[test]
    fn views_are_in_place_at_any_byte_and_return_the_slot() {
        let pool = SlotPool::new(&Budget::new(1 << 20), 8192, 1).unwrap();
        let mut slot = pool.try_acquire().unwrap();
        let bytes = patterned(8192);
        slot.as_mut_slice().copy_from_slice(&bytes);
        let base = slot.as_ptr().addr();
        let wanted = [
            View { offset: 4, shape: vec![2, 3], dtype: Dtype::Uint32 },
            View { offset: 4090, shape: vec![10], dtype: Dtype::Uint8 },
            View { offset: 4101, shape: vec![1000], dtype: Dtype::Uint16 },
        ];
        let arrays = views(slot, (), &wanted).unwrap();
        for (array, view) in arrays.iter().zip(&wanted) {
            assert_eq!(address(array), base + view.offset);
        }
        assert_eq!(arrays[1].as_slice::<u8>(), &bytes[4090..4100]);
        let (pairs, _) = bytes[4101..][..2000].as_chunks();
        let words: Vec<i32> = pairs.iter().map(|&pair| i32::from(u16::from_le_bytes(pair))).collect();
        assert_eq!(arrays[2].as_type::<i32>().unwrap().as_slice::<i32>(), words);
        assert!(pool.try_acquire().is_none());
        drop(arrays);
        assert!(pool.try_acquire().is_some());
    }

    #[test]
    fn realigned_tensors_are_whole_and_do_not_overlap() {
        for shift in 0..4 {
            let original = patterned(400);
            let mut bytes = original.clone();
            // The third is not a whole number of elements, so the fourth is off by another few bytes.
            let lengths =
                [(40, Dtype::Uint32), (6, Dtype::Float16), (3, Dtype::Float16), (20, Dtype::Float32)];
            let mut offset = 16 + shift;
            let mut wanted = Vec::new();
            for (n, dtype) in lengths {
                wanted.push(View { offset, shape: vec![n], dtype });
                offset += wanted.last().unwrap().bytes();
            }
            let mut moved = wanted.clone();
            realign(&mut bytes, &mut moved);
            for (view, from) in moved.iter().zip(&wanted) {
                assert_eq!(bytes[view.offset..][..view.bytes()], original[from.offset..][..from.bytes()]);
            }
            assert!(moved[..3].iter().all(|view| view.offset % ELEMENT_ALIGN == 0));
        }
    }

    #[test]
    #[should_panic(expected = "B of pages")]
    fn alias_longer_than_its_memory_is_a_bug() {
        let buf = PageBuf::new(4096, &Budget::new(1 << 20)).unwrap();
        drop(alias(buf, &[1025], Dtype::Float32));
    }
}
