//! `<formats>_matvec/<isa>/<format>/<n>x<k>`: one row of activations, with one thread per core. Bytes are those of the
//! weights. Matrices rotate, and together exceed all caches, so that reads come from memory.
//!
//! `<formats>_matmul/<isa>/<format>/<n>x<k>/<m>`: `m` rows of activations. Elements are multiplications.
//!
//! Formats: `affine` (`<bits>x<group>`), `strips` (affine with interleaved rows, like pinned weights), `float` and
//! `mx`.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use flash_benches::{Format, Weights, activations};
use flash_kernels::{FloatType, Isa, Mx, Pool, matmul};

/// Shapes `[n, k]` of a model with 8 · 10⁹ parameters: attention, and the up projection of an MLP.
const SHAPES: [[usize; 2]; 2] = [[4096, 4096], [14336, 4096]];

/// Numbers of rows of activations: a few tokens, and chunks of a prompt.
const ROWS: [usize; 3] = [16, 128, 512];

/// Maximum rows for portable kernels, which take a second for a hundred.
const ROWS_PORTABLE: usize = 16;

fn affine() -> Vec<Format> {
    let formats = [(2, 64), (3, 64), (4, 32), (4, 64), (4, 128), (6, 64), (8, 64)];
    formats.map(|(bits, group)| Format::Affine { bits, group }).to_vec()
}

fn strips() -> Vec<Format> {
    let formats = [(4, 32), (4, 64), (4, 128), (8, 64)];
    formats.map(|(bits, group)| Format::Strips { bits, group }).to_vec()
}

fn floats() -> Vec<Format> {
    [FloatType::F32, FloatType::F16, FloatType::BF16].map(Format::Float).to_vec()
}

fn mx() -> Vec<Format> {
    [Mx::Fp4, Mx::Fp8].map(Format::Mx).to_vec()
}

fn pool(isa: Isa) -> Pool {
    let n_threads = Pool::for_machine(Isa::best()).unwrap().n_threads();
    Pool::with_isa(n_threads.try_into().unwrap(), isa).unwrap()
}

fn start<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    group
}

fn matvec(c: &mut Criterion, name: &str, formats: &[Format]) {
    let mut group = start(c, name);
    for isa in Isa::available() {
        let pool = pool(*isa);
        for format in formats {
            for [n, k] in SHAPES {
                let (x, mut y) = (activations(k), vec![0.0; n]);
                // Created only for cases that are not filtered out, because it takes longer than the measurement.
                let (mut weights, mut turn) = (Vec::new(), 0);
                group.throughput(Throughput::Bytes(format.size_bytes([n, k]) as u64));
                group.bench_function(format!("{isa}/{format}/{n}x{k}"), |b| {
                    if weights.is_empty() {
                        weights = Weights::rotation(*format, [n, k]);
                    }
                    b.iter(|| {
                        turn = (turn + 1) % weights.len();
                        matmul(&pool, &x, &weights[turn].matrix().unwrap(), None, &mut y).unwrap();
                    });
                });
            }
        }
    }
    group.finish();
}

fn matmul_rows(c: &mut Criterion, name: &str, formats: &[Format]) {
    let mut group = start(c, name);
    let [[n, k], ..] = SHAPES;
    for isa in Isa::available() {
        let pool = pool(*isa);
        for format in formats {
            let mut weights = None;
            for m in ROWS.into_iter().filter(|m| *isa != Isa::Portable || *m <= ROWS_PORTABLE) {
                let (x, mut y) = (activations(m * k), vec![0.0; m * n]);
                group.throughput(Throughput::Elements((m * n * k) as u64));
                group.bench_function(format!("{isa}/{format}/{n}x{k}/{m}"), |b| {
                    let weights = weights.get_or_insert_with(|| Weights::new(*format, [n, k]));
                    let w = weights.matrix().unwrap();
                    b.iter(|| matmul(&pool, &x, &w, None, &mut y).unwrap());
                });
            }
        }
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for (name, formats) in [("affine", affine()), ("strips", strips()), ("float", floats()), ("mx", mx())] {
        matvec(&mut criterion, &format!("{name}_matvec"), &formats);
        matmul_rows(&mut criterion, &format!("{name}_matmul"), &formats);
    }
    criterion.final_summary();
}
