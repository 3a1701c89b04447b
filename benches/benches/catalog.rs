//! `catalog/open/<tensors>`: opens a model with four shards whose headers are in the page cache. Elements are tensors.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use flash_io::{Catalog, IoMode};

const N_SHARDS: usize = 4;

fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("catalog");
    for n_tensors in [400, 20_000] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for shard in 0..N_SHARDS {
            let (path, prefix) =
                (dir.path().join(format!("{shard}.safetensors")), format!("model.layers.{shard}"));
            flash_benches::write_shard(&path, &prefix, n_tensors / N_SHARDS, 16).unwrap();
        }
        group.throughput(Throughput::Elements(n_tensors as u64));
        group.bench_function(BenchmarkId::new("open", n_tensors), |b| {
            b.iter(|| Catalog::open(black_box(dir.path()), IoMode::Pread).unwrap());
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    open(&mut criterion);
    criterion.final_summary();
}
