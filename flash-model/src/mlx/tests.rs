use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flash_io::{Budget, SlotPool};
use mlx_rs::ops::indexing::TryIndexOp;

use super::*;

/// Memory that counts how often it is dropped.
#[derive(Debug)]
struct Counted(PageBuf, Arc<AtomicUsize>);

// SAFETY: forwards to PageBuf, which upholds the contract.
#[expect(unsafe_code, reason = "forwards to PageBuf")]
unsafe impl OwnedMemory for Counted {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }
    fn len_bytes(&self) -> usize {
        self.0.len()
    }
    fn mapped_bytes(&self) -> usize {
        self.0.mapped_bytes()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn alias_reads_memory_in_place_and_drops_it_last() {
    let budget = Budget::new(1 << 20);
    let mut buf = PageBuf::new(4096, &budget).unwrap();
    buf.as_mut_slice()[..8].copy_from_slice(&[0, 0, 128, 63, 0, 0, 0, 64]);
    let (address_of_buf, dropped) = (buf.as_ptr().addr(), Arc::new(AtomicUsize::new(0)));
    let array = alias(Counted(buf, Arc::clone(&dropped)), &[2], Dtype::Float32).unwrap();
    assert_eq!(address(&array), address_of_buf);
    let view = array.try_index(1..2).unwrap();
    assert_eq!(view.as_slice::<f32>(), [2.0]);
    drop(array);
    assert_eq!(dropped.load(Ordering::SeqCst), 0, "the view still needs it");
    drop(view);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn array_over_a_part_of_its_pages_is_in_place_and_drops_them_last() {
    let budget = Budget::new(1 << 20);
    let mut buf = PageBuf::new(5000, &budget).unwrap();
    buf.as_mut_slice()[4996..].copy_from_slice(&[0, 0, 0, 64]);
    let (address_of_buf, dropped) = (buf.as_ptr().addr(), Arc::new(AtomicUsize::new(0)));
    let array = alias_by_view(Counted(buf, Arc::clone(&dropped)), &[2, 625], Dtype::Float32).unwrap();
    assert_eq!(address(&array), address_of_buf);
    assert_eq!(array.as_slice::<f32>()[1249], 2.0);
    assert_eq!(dropped.load(Ordering::SeqCst), 0, "the array needs it");
    drop(array);
    assert_eq!((dropped.load(Ordering::SeqCst), budget.used_bytes()), (1, 0));
}

/// On Linux, mlx-c's function copies, as on macOS if Metal refuses the buffer.
#[test]
#[cfg(target_os = "linux")]
fn memory_that_mlx_copies_is_an_error_and_is_dropped_once() {
    let budget = Budget::new(1 << 20);
    let dropped = Arc::new(AtomicUsize::new(0));
    let memory = Counted(PageBuf::new(4096, &budget).unwrap(), Arc::clone(&dropped));
    let copying = mlx_sys::mlx_array_new_data_managed_payload;
    let error = alias_with(copying, memory, &[2], Dtype::Float32).unwrap_err();
    assert!(error.what().contains("MLX copied 8 B"), "{error}");
    assert_eq!((dropped.load(Ordering::SeqCst), budget.used_bytes()), (1, 0));
}

/// Makes the next allocation of a handle on this thread fail.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "foreign function")]
fn fail_next_handle() {
    unsafe extern "C" {
        fn flash_fail_next_handle();
    }
    // SAFETY: the function sets a thread-local flag.
    unsafe { flash_fail_next_handle() };
}

#[test]
#[cfg(target_os = "linux")]
fn a_handle_that_cannot_be_allocated_drops_its_memory_once() {
    let budget = Budget::new(1 << 20);
    let dropped = Arc::new(AtomicUsize::new(0));
    let memory = || Counted(PageBuf::new(4096, &budget).unwrap(), Arc::clone(&dropped));
    fail_next_handle();
    assert!(alias(memory(), &[2], Dtype::Float32).is_err());
    assert_eq!((dropped.load(Ordering::SeqCst), budget.used_bytes()), (1, 0));
    drop(alias(memory(), &[2], Dtype::Float32).unwrap());
    assert_eq!((dropped.load(Ordering::SeqCst), budget.used_bytes()), (2, 0));
}

#[test]
#[cfg(target_os = "linux")]
fn a_view_that_cannot_be_allocated_returns_the_slot() {
    let pool = SlotPool::new(&Budget::new(1 << 20), 8192, 1).unwrap();
    let wanted = [View { offset: 8, shape: vec![3], dtype: Dtype::Float32 }];
    let whole = alias(GuardedSlot((), pool.try_acquire().unwrap()), &[2, 4096], Dtype::Uint8).unwrap();
    fail_next_handle();
    assert!(view_of(&whole, &wanted[0]).is_err());
    drop(whole);
    assert!(pool.try_acquire().is_some());
}

/// Allocates a slot whose OS pages are not backed before they are written to.
#[cfg(target_os = "linux")]
fn sparse_slot(len_bytes: usize) -> Slot {
    Slot::unpooled(&Budget::new(1 << 40), len_bytes).unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn a_tensor_behind_two_gib_of_others_is_found() {
    let offset = (2 << 30) + 4096 + 12;
    for view_of in [view_of, view_by_operations] {
        let mut slot = sparse_slot((2 << 30) + 8192);
        slot.as_mut_slice()[offset..][..8].copy_from_slice(&[0, 0, 128, 63, 0, 0, 0, 64]);
        let base = slot.as_ptr().addr();
        let n_rows = (slot.len() / ROW_BYTES) as i32;
        let whole = alias(GuardedSlot((), slot), &[n_rows, ROW_BYTES as i32], Dtype::Uint8).unwrap();
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
        let whole = alias(GuardedSlot((), slot), &[rows, ROW_BYTES as i32], Dtype::Uint8).unwrap();
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
    let whole = alias(GuardedSlot((), slot), &[rows, ROW_BYTES as i32], Dtype::Uint8).unwrap();
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
    // One tensor that its layer has dropped: only the operation holds it, so MLX may write the output in its place.
    let wanted = [View { offset: 4, shape: vec![2], dtype: Dtype::Float32 }];
    let weight = views(slot, (), &wanted).unwrap().remove(0);
    let sum = weight.add(Array::from_f32(1.0)).unwrap();
    drop(weight);
    sum.eval().unwrap();
    let is_in_place = address(&sum) == place;
    assert!(is_in_place || cfg!(not(target_os = "linux")), "MLX writes the output in place");
    assert_eq!(pool.try_acquire().is_none(), is_in_place, "the owner of the memory holds the slot");
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
        let offset = address(array) - base;
        if cfg!(target_os = "macos") {
            assert!(offset <= view.offset && offset.is_multiple_of(16), "moved to {offset}");
        } else {
            assert_eq!(offset, view.offset);
        }
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
fn views_of_realigned_tensors_have_the_bytes_of_before() {
    let original = patterned(400);
    let mut bytes = original.clone();
    let wanted = [
        View { offset: 61, shape: vec![5], dtype: Dtype::Float16 },
        View { offset: 21, shape: vec![2, 5], dtype: Dtype::Uint32 },
    ];
    let mut moved = wanted.to_vec();
    realign_views(&mut bytes, &mut moved).unwrap();
    assert_eq!([moved[0].offset, moved[1].offset], [48, 0]);
    for (view, from) in moved.iter().zip(&wanted) {
        assert_eq!(bytes[view.offset..][..view.bytes()], original[from.offset..][..from.bytes()]);
    }
}

#[test]
#[should_panic(expected = "B of memory")]
fn alias_longer_than_its_memory_is_a_bug() {
    let buf = PageBuf::new(4096, &Budget::new(1 << 20)).unwrap();
    drop(alias(buf, &[1025], Dtype::Float32));
}
