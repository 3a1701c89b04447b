//! The interface to MLX: arrays over memory owned by this crate, and custom functions in MLX's graph.
//!
//! The only module that calls MLX's C interface directly, but for a question in `memory`; all others use `mlx-rs`.

#[cfg(target_os = "linux")]
pub(crate) mod kernel;
pub(crate) mod quantized;
mod realign;
#[cfg(test)]
mod tests;

use std::ffi::{c_int, c_void};
use std::fmt::Debug;

use flash_io::{PageBuf, Slot};
use mlx_rs::error::Exception;
#[cfg(any(test, not(target_os = "linux")))]
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype};

pub(crate) use realign::Misaligned;

/// Memory that an array can be created over without a copy.
///
/// # Safety
/// [`as_mut_ptr`](Self::as_mut_ptr) returns memory that stays valid and at the same address for as long as the owner
/// lives, even if the owner is moved; it starts at an OS page, and the 16 bytes before it belong to the owner too, as do
/// [`mapped_bytes`](Self::mapped_bytes) from its start on.
#[expect(unsafe_code, reason = "MLX relies on the guarantees of the implementation")]
pub(crate) unsafe trait OwnedMemory: Debug + Send + 'static {
    /// Returns the address of the first byte of data.
    fn as_mut_ptr(&mut self) -> *mut u8;
    /// Returns the number of bytes of data.
    fn len_bytes(&self) -> usize;
    /// Returns the number of bytes of data and of the rest of the last OS page.
    fn mapped_bytes(&self) -> usize;
}

// SAFETY: a PageBuf is an anonymous mapping of whole OS pages, with one in front of its data; moving the handle moves no
// byte of it.
#[expect(unsafe_code, reason = "MLX relies on the guarantees of the implementation")]
unsafe impl OwnedMemory for PageBuf {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        PageBuf::as_mut_ptr(self)
    }
    fn len_bytes(&self) -> usize {
        self.len()
    }
    fn mapped_bytes(&self) -> usize {
        PageBuf::mapped_bytes(self)
    }
}

/// A slot with a guard that is dropped right before it.
#[derive(Debug)]
struct GuardedSlot<W>(W, Slot);

// SAFETY: a slot is a PageBuf that returns to its pool only when it is dropped, so it is not written to before.
#[expect(unsafe_code, reason = "MLX relies on the guarantees of the implementation")]
unsafe impl<W: Debug + Send + 'static> OwnedMemory for GuardedSlot<W> {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.1.as_mut_ptr()
    }
    fn len_bytes(&self) -> usize {
        self.1.len()
    }
    fn mapped_bytes(&self) -> usize {
        self.1.mapped_bytes()
    }
}

/// Creates an array over `memory` without a copy. The memory is dropped with the last array that shares it, on whatever
/// thread: a slot cannot be refilled while any operation still uses it.
///
/// # Errors
/// If MLX fails, copies the memory, or has no memory for the array's handle; `memory` is dropped then.
///
/// # Panics
/// If the shape takes more bytes than the memory has.
pub(crate) fn alias<P: OwnedMemory>(memory: P, shape: &[i32], dtype: Dtype) -> Result<Array, Exception> {
    let wanted_bytes = bytes_of(shape, dtype);
    assert!(
        wanted_bytes <= memory.len_bytes(),
        "{wanted_bytes} B of array over {} B of memory",
        memory.len_bytes()
    );
    #[cfg(not(target_os = "linux"))]
    if wanted_bytes != memory.mapped_bytes() {
        return alias_by_view(memory, shape, dtype);
    }
    alias_with(native_alias, memory, shape, dtype)
}

/// Creates an array over memory by a view of its whole OS pages: Metal takes no buffers of other lengths.
#[cfg(any(test, not(target_os = "linux")))]
fn alias_by_view<P: OwnedMemory>(memory: P, shape: &[i32], dtype: Dtype) -> Result<Array, Exception> {
    let whole = alias_pages(memory)?;
    let view = view_by_operations(&whole, &View { offset: 0, shape: shape.to_vec(), dtype })?;
    mlx_rs::transforms::eval([&view])?;
    Ok(view)
}

/// Creates an array of bytes over all OS pages of `memory`. A dimension is at most `i32::MAX`, and memory may be longer,
/// so the array has rows of one block.
fn alias_pages<P: OwnedMemory>(memory: P) -> Result<Array, Exception> {
    let n_rows = dim_of(memory.mapped_bytes() / ROW_BYTES)?;
    alias_with(native_alias, memory, &[n_rows, ROW_BYTES as i32], Dtype::Uint8)
}

/// A function of MLX's C interface that creates an array over memory.
type NativeAlias = unsafe extern "C" fn(
    data: *mut c_void,
    shape: *const c_int,
    dim: c_int,
    dtype: mlx_sys::mlx_dtype,
    payload: *mut c_void,
    dtor: Option<unsafe extern "C" fn(*mut c_void)>,
) -> mlx_sys::mlx_array;

/// Creates an array over `memory` with `native_alias`, and checks that it has made no copy: if Metal refuses a buffer, MLX
/// copies the memory and drops it at once, so that the budget would not count the copy.
#[expect(unsafe_code, reason = "passes memory to MLX")]
fn alias_with<P: OwnedMemory>(
    native_alias: NativeAlias,
    memory: P,
    shape: &[i32],
    dtype: Dtype,
) -> Result<Array, Exception> {
    unsafe extern "C" fn drop_memory<P>(payload: *mut c_void) {
        // SAFETY: `payload` is the box leaked below, and the native library calls this once, whatever fails.
        drop(unsafe { Box::from_raw(payload.cast::<P>()) });
    }
    let wanted_bytes = bytes_of(shape, dtype);
    assert!(wanted_bytes <= memory.mapped_bytes(), "the callers check it");

    let mut memory = Box::new(memory);
    let data = memory.as_mut_ptr().cast::<c_void>();
    let payload = Box::into_raw(memory).cast::<c_void>();
    let n_dims = shape.len() as c_int;
    // SAFETY: by the contract of `OwnedMemory` the memory is valid until the payload is dropped, and the word before it
    // is free for MLX's header; the shape was checked against its length. MLX owns the payload from here on, also on
    // failure.
    let handle =
        unsafe { native_alias(data, shape.as_ptr(), n_dims, dtype.into(), payload, Some(drop_memory::<P>)) };
    if handle.ctx.is_null() {
        return Err(Exception::custom("MLX refused an array over foreign memory"));
    }
    // SAFETY: a fresh handle that nobody else frees.
    let array = unsafe { Array::from_ptr(handle) };
    // SAFETY: the array was created with its data, and only its address is used.
    let place = unsafe { mlx_sys::mlx_array_data_uint8(array.as_ptr()) };
    if place.addr() != data.addr() {
        return Err(Exception::custom(format!(
            "MLX copied {wanted_bytes} B of foreign memory, which would not count against the budget"
        )));
    }
    Ok(array)
}

// On Linux mlx-c copies such memory, so the native library has a function that does not.
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

// On Apple silicon mlx-c wraps whole OS pages in a Metal buffer without a copy. On failure it does not report
// whether it has run the destructor, so the payload may be leaked then, but never freed twice.
#[cfg(not(target_os = "linux"))]
use mlx_sys::mlx_array_new_data_managed_payload as native_alias;

/// Offset, shape and dtype of a tensor within a bundle's slot.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// Byte offset of the first element.
    pub offset: usize,
    pub shape: Vec<i32>,
    pub dtype: Dtype,
}

impl View {
    pub(crate) fn bytes(&self) -> usize {
        bytes_of(&self.shape, self.dtype)
    }
}

/// An error of creating views of a slot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ViewError {
    /// Metal cannot load a tensor from where it lies.
    #[error("tensor {} of a bundle cannot be aligned at byte {}", .0.view_idx, .0.offset)]
    Misaligned(Misaligned),
    #[error("tensor {view_idx} of a bundle: {error}")]
    View { view_idx: usize, error: Exception },
    #[error(transparent)]
    Mlx(#[from] Exception),
}

/// Returns the tensors of a loaded bundle as evaluated views of its slot, without a copy. When the last view is
/// dropped, `guard` is dropped and the slot returns to its pool, on the thread that drops the view.
///
/// The data of a safetensors file may start at any byte, and views have that offset. CPUs load from unaligned
/// addresses; Metal does not, so tensors are moved within the slot first there (no Mac has run that yet).
pub(crate) fn views<W: Debug + Send + 'static>(
    mut slot: Slot,
    guard: W,
    views: &[View],
) -> Result<Vec<Array>, ViewError> {
    let mut views = views.to_vec();
    if cfg!(target_os = "macos") {
        realign_views(slot.as_mut_slice(), &mut views).map_err(ViewError::Misaligned)?;
    }
    let whole = alias_pages(GuardedSlot(guard, slot))?;
    let view = |(view_idx, view)| view_of(&whole, view).map_err(|error| ViewError::View { view_idx, error });
    let views = views.iter().enumerate().map(view).collect::<Result<Vec<_>, _>>()?;
    // Evaluated once here, rather than in every graph that uses the views.
    if cfg!(not(target_os = "linux")) {
        mlx_rs::transforms::eval(&views)?;
    }
    Ok(views)
}

/// Converts the extent of a dimension to MLX's type, which has 32 bits.
fn dim_of(extent: usize) -> Result<i32, Exception> {
    let too_long = || Exception::custom(format!("a dimension of {extent}, and MLX's have 31 bits"));
    i32::try_from(extent).map_err(|_| too_long())
}

/// Row length of the array over a slot: OS pages are a whole number of direct I/O blocks.
const ROW_BYTES: usize = flash_io::DIRECT_ALIGN;

/// Returns a view of a tensor within a slot. MLX has no single operation for this, and five per tensor take 20 µs.
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
    // SAFETY: `whole` is an evaluated array of bytes that shares its memory with the view for as long as the view
    // lives, and the view lies in it.
    let handle = unsafe { native_view(whole.as_ptr(), view.offset, shape, dim, view.dtype.into()) };
    if handle.ctx.is_null() {
        return Err(Exception::custom("MLX refused a view"));
    }
    // SAFETY: a fresh handle that nobody else frees.
    Ok(unsafe { Array::from_ptr(handle) })
}

#[cfg(not(target_os = "linux"))]
use view_by_operations as view_of;

/// Returns a view of a tensor within a slot, from MLX's operations. A tensor of 2 GiB or more must be aligned to its
/// elements, as [`realign_views`] leaves it.
#[cfg(any(test, not(target_os = "linux")))]
fn view_by_operations(whole: &Array, view: &View) -> Result<Array, Exception> {
    let bytes = view.bytes();
    let (first, end) = (view.offset / ROW_BYTES, (view.offset + bytes).div_ceil(ROW_BYTES));
    let rows = whole.try_index(dim_of(first)?..dim_of(end)?)?;
    let start = view.offset - first * ROW_BYTES;
    let item_bytes = size_of_dtype(view.dtype);
    // Slices bytes, which may start anywhere, if their number fits in a dimension; else elements, which are fewer.
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

/// Aligns the tensors of a slot for Metal, and updates their offsets.
fn realign_views(slot: &mut [u8], views: &mut [View]) -> Result<(), Misaligned> {
    let mut ranges: Vec<_> = views.iter().map(|view| view.offset..view.offset + view.bytes()).collect();
    realign::realign(slot, &mut ranges)?;
    for (view, range) in views.iter_mut().zip(ranges) {
        view.offset = range.start;
    }
    Ok(())
}

fn bytes_of(shape: &[i32], dtype: Dtype) -> usize {
    shape.iter().map(|&extent| extent as usize).product::<usize>() * size_of_dtype(dtype)
}

/// Returns the size of an element in bytes.
pub(crate) fn size_of_dtype(dtype: Dtype) -> usize {
    match dtype {
        Dtype::Bool | Dtype::Uint8 | Dtype::Int8 => 1,
        Dtype::Uint16 | Dtype::Int16 | Dtype::Float16 | Dtype::Bfloat16 => 2,
        Dtype::Uint32 | Dtype::Int32 | Dtype::Float32 => 4,
        Dtype::Uint64 | Dtype::Int64 | Dtype::Float64 | Dtype::Complex64 => 8,
    }
}

/// Returns the address of an array's data, to distinguish a view from a copy.
#[cfg(test)]
#[expect(unsafe_code, reason = "reads an address, not the data")]
pub(crate) fn address(array: &Array) -> usize {
    array.eval().expect("evaluates");
    // SAFETY: the array is evaluated, and only its address is used.
    unsafe { mlx_sys::mlx_array_data_uint8(array.as_ptr()) as usize }
}
