use super::*;
use crate::budget::Budget;
use crate::pool::SlotPool;
use crate::reader::fill::{Origin, split};
use crate::ring_setup::availability;

/// Begins a read that never completes by itself, into the only slot of a pool.
fn stuck() -> Option<(Uring<()>, OwnedFd, SlotPool)> {
    if let Err(error) = availability() {
        #[expect(clippy::print_stderr, reason = "a skipped test says so")]
        {
            eprintln!("skipped io_uring: {error}");
        }
        return None;
    }
    let (reader, writer) = std::io::pipe().unwrap();
    let pool = SlotPool::new(&Budget::new(1 << 20), 100, 1).unwrap();
    let origin = Origin { path: std::path::Path::new("pipe").into(), offset: 0 };
    let (_fill, mut pieces) = split(pool.try_acquire().unwrap(), vec![(0..100, origin)]);
    let mut uring = Uring::new(1, &[reader.as_fd()], None).unwrap();
    uring.read(0, 0, pieces.remove(0), 0, ()).unwrap();
    uring.wait(Some(Duration::ZERO)).unwrap();
    assert!(uring.next_completed().unwrap().is_none());
    Some((uring, writer.into(), pool))
}

#[test]
fn memory_that_the_kernel_may_write_to_is_never_given_back() {
    let Some((mut uring, _writer, pool)) = stuck() else { return };
    // As after the loss of the table in a panic.
    uring.in_flight.clear();
    uring.free.clear();
    assert_eq!(pool.free_slots(), 0);
    drop(uring);
    assert_eq!(pool.free_slots(), 0);
}

#[test]
fn reads_by_kernel_workers_complete_and_can_be_cancelled() {
    if availability().is_err() {
        return;
    }
    let (reader, mut writer) = std::io::pipe().unwrap();
    let pool = SlotPool::new(&Budget::new(1 << 20), 100, 2).unwrap();
    let origin = Origin { path: std::path::Path::new("pipe").into(), offset: 0 };
    let piece = || {
        let (_, mut pieces) = split(pool.try_acquire().unwrap(), vec![(0..100, origin.clone())]);
        pieces.remove(0)
    };
    let mut uring = Uring::new(2, &[reader.as_fd()], None).unwrap();
    uring.uses_workers = vec![true];
    let wait_for_completed = |uring: &mut Uring<u32>| loop {
        uring.wait(None).unwrap();
        if let Some(completed) = uring.next_completed().unwrap() {
            break completed;
        }
    };
    uring.read(0, 0, piece(), 0, 1).unwrap();
    std::io::Write::write_all(&mut writer, &[7; 100]).unwrap();
    let Completed { piece: mut filled, context, outcome } = wait_for_completed(&mut uring);
    assert_eq!((outcome.unwrap(), context, filled.buf()), (100, 1, &mut [7; 100][..]));
    uring.read(0, 0, piece(), 0, 2).unwrap();
    let (user_data, ..) = uring.in_flight().next().unwrap();
    uring.cancel(user_data).unwrap();
    let completed = wait_for_completed(&mut uring);
    assert!(completed.outcome.is_err());
}

#[test]
fn dropped_ring_waits_for_its_reads() {
    let Some((uring, writer, pool)) = stuck() else { return };
    let end = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        drop(writer);
    });
    drop(uring);
    assert_eq!(pool.free_slots(), 1);
    end.join().unwrap();
}

#[test]
fn cancelled_read_completes() {
    let Some((mut uring, _writer, pool)) = stuck() else { return };
    let (user_data, ..) = uring.in_flight().next().unwrap();
    uring.cancel(user_data).unwrap();
    let completed = loop {
        uring.wait(None).unwrap();
        if let Some(completed) = uring.next_completed().unwrap() {
            break completed;
        }
    };
    let code = completed.outcome.unwrap_err().raw_os_error();
    assert_eq!(code, Some(Errno::CANCELED.raw_os_error()));
    assert!(uring.has_room());
    drop(completed.piece);
    assert_eq!(pool.free_slots(), 1);
}
