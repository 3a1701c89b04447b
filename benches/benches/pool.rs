//! `pool/enter_and_leave/<case>/<threads>`: an empty job with a part per thread, the overhead of every matrix product.
//!
//! - `awake`: jobs follow each other immediately. The caller may finish before a worker starts.
//! - `met`: jobs follow each other immediately, and each part waits for the others to start, so all threads take part.
//! - `asleep`: the workers are asleep, and the caller wakes them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use flash_kernels::{Isa, Pool};

/// Idle time between jobs, longer than workers spin for the next one.
const IDLE: Duration = Duration::from_micros(200);

fn enter_and_leave(c: &mut Criterion) {
    let mut group = c.benchmark_group("pool/enter_and_leave");
    group.throughput(Throughput::Elements(1));
    let machine = Pool::for_machine(Isa::best()).unwrap().n_threads();
    let mut counts = vec![1, 2, machine];
    counts.sort_unstable();
    counts.dedup();
    for n_threads in counts {
        let pool = Pool::with_isa(n_threads.try_into().unwrap(), Isa::best()).unwrap();
        let job = || pool.run(n_threads, &|_| ());
        group.bench_function(format!("awake/{n_threads}"), |b| b.iter(job));
        group.bench_function(format!("met/{n_threads}"), |b| {
            b.iter(|| {
                let n_begun = AtomicUsize::new(0);
                pool.run(n_threads, &|_| {
                    n_begun.fetch_add(1, Ordering::Relaxed);
                    while n_begun.load(Ordering::Relaxed) < n_threads {
                        std::hint::spin_loop();
                    }
                });
            });
        });
        group.bench_function(format!("asleep/{n_threads}"), |b| {
            b.iter_custom(|n| {
                let one = |_| {
                    thread::sleep(IDLE);
                    let started = Instant::now();
                    job();
                    started.elapsed()
                };
                (0..n).map(one).sum()
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    enter_and_leave(&mut criterion);
    criterion.final_summary();
}
