use std::collections::HashSet;
use std::panic::catch_unwind;
use std::sync::atomic::AtomicUsize;

use super::*;

fn pool(n_threads: usize) -> Pool {
    Pool::with_isa(NonZeroUsize::new(n_threads).unwrap(), Isa::Portable).unwrap()
}

#[test]
fn every_part_runs_exactly_once_for_any_number_of_threads() {
    for n_threads in [1, 2, 3, 8] {
        let pool = pool(n_threads);
        assert_eq!(pool.n_threads(), n_threads);
        for n_parts in [0, 1, 2, 3, 7, 64, 1000] {
            let counts: Vec<AtomicUsize> = (0..n_parts).map(|_| AtomicUsize::new(0)).collect();
            pool.run(n_parts, &|part_idx| {
                counts[part_idx].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }
}

#[test]
fn jobs_follow_each_other_without_a_lost_wakeup() {
    let pool = pool(3);
    let sum = AtomicUsize::new(0);
    for job_idx in 0..20_000 {
        pool.run(4, &|part_idx| {
            sum.fetch_add(part_idx, Ordering::Relaxed);
        });
        if job_idx % 1000 == 0 {
            thread::sleep(2 * IDLE_SPIN[1]);
        }
    }
    assert_eq!(sum.into_inner(), 20_000 * 6);
}

#[test]
fn workers_take_part() {
    let pool = pool(2);
    let seen = Mutex::new(HashSet::new());
    pool.run(2, &|_| {
        lock(&seen).insert(thread::current().id());
        let start = Instant::now();
        // Each part waits for the other, so one thread cannot run both.
        while lock(&seen).len() < 2 && start.elapsed() < Duration::from_secs(10) {
            thread::yield_now();
        }
    });
    assert_eq!(lock(&seen).len(), 2);
}

#[test]
fn a_panic_reaches_the_caller_and_leaves_the_pool_usable() {
    let pool = pool(2);
    for bad in [0, 63] {
        let run = || pool.run(64, &|part_idx| assert_ne!(part_idx, bad, "part {bad} fails"));
        let payload = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
        assert!(payload.downcast_ref::<String>().unwrap().contains(&format!("part {bad} fails")));
    }
    let count = AtomicUsize::new(0);
    pool.run(64, &|_| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(count.into_inner(), 64);
}

#[test]
fn callers_on_several_threads_take_turns() {
    let pool = pool(2);
    let sum = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    pool.run(8, &|_| {
                        sum.fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
        }
    });
    assert_eq!(sum.into_inner(), 4 * 500 * 8);
}

#[test]
fn columns_cover_the_matrix() {
    let pool = pool(2);
    let mut matrix = vec![0.0; 3 * 70];
    pool.for_columns(&mut matrix, 70, 32, |mut columns| {
        let range = columns.range();
        for row_idx in 0..3 {
            for (value, column) in columns.row_mut(row_idx).iter_mut().zip(range.clone()) {
                *value += (row_idx * 70 + column) as f32;
            }
        }
    });
    assert!(matrix.iter().enumerate().all(|(idx, value)| *value == idx as f32));
}

#[test]
fn bands_cover_their_rows_and_no_others() {
    let pool = pool(3);
    let mut matrix = vec![0.0; 5 * 70];
    let bands =
        [Band { rows: &[4, 0], width: 32 }, Band { rows: &[], width: 1 }, Band { rows: &[2], width: 70 }];
    pool.for_bands(&mut matrix, 70, &bands, |band_idx, mut columns| {
        for idx in 0..bands[band_idx].rows.len() {
            columns.row_mut(idx).iter_mut().for_each(|value| *value += (10 * band_idx + idx + 1) as f32);
        }
    });
    for (row, wanted) in matrix.chunks(70).zip([2.0, 0.0, 21.0, 0.0, 1.0]) {
        assert!(row.iter().all(|value| *value == wanted));
    }
}

#[test]
fn bands_that_share_a_row_are_refused() {
    let pool = pool(2);
    for rows in [[1, 1], [0, 5]] {
        let mut matrix = [0.0; 5];
        let bands = [Band { rows: &rows[..1], width: 1 }, Band { rows: &rows[1..], width: 1 }];
        let run = || pool.for_bands(&mut matrix, 1, &bands, |_, _| ());
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
    }
}

#[test]
fn map_keeps_the_order() {
    for n_items in [0, 1, 100] {
        assert!(pool(3).map(n_items, |idx| idx).into_iter().eq(0..n_items));
    }
}

#[test]
fn every_sleeping_worker_of_many_is_woken() {
    for n_threads in [2, 5, 6, 22, 64] {
        let pool = pool(n_threads);
        for _ in 0..5 {
            // Let all workers fall asleep. A job that comes before that finds them spinning.
            thread::sleep(2 * IDLE_SPIN[1]);
            let seen = Mutex::new(HashSet::new());
            pool.run(n_threads, &|_| {
                lock(&seen).insert(thread::current().id());
                let start = Instant::now();
                // Each part waits for all others, so a worker that was not woken would be missed.
                while lock(&seen).len() < n_threads && start.elapsed() < Duration::from_secs(20) {
                    thread::sleep(Duration::from_micros(100));
                }
            });
            assert_eq!(lock(&seen).len(), n_threads);
        }
    }
}

#[test]
fn many_workers_miss_no_part_and_run_none_twice() {
    let pool = pool(64);
    for job_idx in 0..300 {
        let counts: Vec<AtomicUsize> = (0..1 + job_idx % 130).map(|_| AtomicUsize::new(0)).collect();
        pool.run(counts.len(), &|part_idx| {
            counts[part_idx].fetch_add(1, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        if job_idx % 50 == 0 {
            thread::sleep(2 * IDLE_SPIN[1]);
        }
    }
}

#[test]
#[should_panic(expected = "a job must not use the pool that runs it")]
fn a_job_within_a_job_of_the_same_pool_panics() {
    let pool = pool(2);
    pool.run(8, &|_| pool.run(8, &|_| ()));
}

#[test]
fn a_nested_job_panics_on_every_thread_and_for_any_number_of_parts() {
    for n_threads in [1, 3] {
        let pool = pool(n_threads);
        for n_parts in [1, 64] {
            for n_nested in [0, 1, 2] {
                let n_refused = AtomicUsize::new(0);
                pool.run(n_parts, &|_| {
                    let nested = catch_unwind(AssertUnwindSafe(|| pool.run(n_nested, &|_| ())));
                    n_refused.fetch_add(usize::from(nested.is_err()), Ordering::Relaxed);
                });
                assert_eq!(n_refused.into_inner(), n_parts);
            }
        }
        // The pool is still usable, and the thread is outside of it again.
        pool.run(64, &|_| ());
    }
}

#[test]
fn a_job_may_use_another_pool_but_not_to_come_back() {
    let [outer, inner] = [2, 2].map(pool);
    let (sum, n_refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    outer.run(4, &|_| {
        inner.run(4, &|_| {
            sum.fetch_add(1, Ordering::Relaxed);
            let back = catch_unwind(AssertUnwindSafe(|| outer.run(2, &|_| ())));
            n_refused.fetch_add(usize::from(back.is_err()), Ordering::Relaxed);
        });
    });
    assert_eq!([sum.into_inner(), n_refused.into_inner()], [16, 16]);
}
