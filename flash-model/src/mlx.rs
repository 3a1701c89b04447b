//! The seam to MLX: arrays over memory that we own, and functions of ours in its graph.
//!
//! The only module that calls MLX's C interface itself; everything else uses `mlx-rs`.

#[cfg(target_os = "linux")]
pub(crate) mod kernel;
pub(crate) mod quantized;
#[cfg(test)]
mod tests;

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
