//! `slot/acquire_release/<bytes>`: acquires a slot from its pool and releases it; its OS pages stay resident.
//!
//! `slot/alone_touched/<bytes>`: the cost without a pool: allocates fresh memory, and writes each OS page once.

use criterion::{BenchmarkId, Criterion, Throughput};
use flash_io::{Budget, Slot, SlotPool};

fn slots(c: &mut Criterion) {
    let mut group = c.benchmark_group("slot");
    for slot_bytes in [1 << 20, 16 << 20] {
        let budget = Budget::new(1 << 30);
        group.throughput(Throughput::Elements(1));
        let pool = SlotPool::new(&budget, slot_bytes, 4).unwrap();
        group.bench_function(BenchmarkId::new("acquire_release", slot_bytes), |b| {
            b.iter(|| drop(pool.try_acquire().unwrap()));
        });
        group.throughput(Throughput::Bytes(slot_bytes as u64));
        group.bench_function(BenchmarkId::new("alone_touched", slot_bytes), |b| {
            b.iter(|| {
                let mut slot = Slot::unpooled(&budget, slot_bytes).unwrap();
                slot.chunks_mut(4096).for_each(|page| page[0] = 1);
                slot
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    slots(&mut criterion);
    criterion.final_summary();
}
