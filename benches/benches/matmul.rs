//! `matvec/<format>/<isa>/<n>x<k>`: one row of activations, with one thread per core. Bytes are those of the weights.
//! Matrices rotate, and together exceed all caches, so that reads come from memory.
//!
//! `matmul/<format>/rows=<m>/<isa>`: `m` rows of activations, `n` and `k` 4096, with matrices that rotate in the same
//! way. Elements are multiplications.
//!
//! Formats: `q<bits>g<group>` (affine), `f32`, `f16`, `bf16`, `mxfp4` and `mxfp8`. Affine weights are in strips where
//! those of layers that stay in memory are; their layout as stored is `q<bits>g<group>-rows`.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use flash_benches::{Format, Weights, activations};
use flash_kernels::{FloatType, Isa, Mx, Pool, matmul};

/// Shapes `[n, k]` of a model with 8 · 10⁹ parameters: attention, and the up projection of an MLP.
const SHAPES: [[usize; 2]; 2] = [[4096, 4096], [14336, 4096]];

/// Numbers of rows of activations: a token, a few, and chunks of a prompt.
const ROWS: [usize; 12] = [1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 512];

/// Maximum rows for portable kernels, which take a second for a hundred.
const ROWS_PORTABLE: usize = 16;

/// Returns the names and formats that are measured with the kernels of `pool`.
fn formats(pool: &Pool) -> Vec<(String, Format)> {
    let mut formats = Vec::new();
    for (bits, group) in [(2, 64), (3, 64), (4, 32), (4, 64), (4, 128), (6, 64), (8, 64)] {
        let rows = Format::Affine { bits, group };
        match pool.strips(bits) {
            Some(strips) => {
                let strips = Format::Strips { bits, group, strips };
                formats.extend([(strips.to_string(), strips), (format!("{rows}-rows"), rows)]);
            }
            None => formats.push((rows.to_string(), rows)),
        }
    }
    let floats = [FloatType::F32, FloatType::F16, FloatType::BF16].map(Format::Float);
    let others = floats.into_iter().chain([Mx::Fp4, Mx::Fp8].map(Format::Mx));
    formats.extend(others.map(|format| (format.to_string(), format)));
    formats
}

fn pools() -> impl Iterator<Item = Pool> {
    let n_threads = Pool::for_machine(Isa::best()).unwrap().n_threads();
    Isa::available().iter().map(move |isa| Pool::with_isa(n_threads.try_into().unwrap(), *isa).unwrap())
}

fn start<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    group
}

/// Measures products of `m` rows with matrices in turn, which are created only if the case is not filtered out, because
/// it takes longer than the measurement.
fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: String,
    pool: &Pool,
    weights: &mut Vec<Weights>,
    (format, [n, k], m): (Format, [usize; 2], usize),
) {
    let (x, mut y, mut turn) = (activations(m * k), vec![0.0; m * n], 0);
    group.bench_function(name, |b| {
        if weights.is_empty() {
            *weights = Weights::rotation(format, [n, k]);
        }
        b.iter(|| {
            turn = (turn + 1) % weights.len();
            matmul(pool, &x, &weights[turn].matrix().unwrap(), None, &mut y).unwrap();
        });
    });
}

fn matvec(c: &mut Criterion) {
    let mut group = start(c, "matvec");
    for pool in pools() {
        for (name, format) in formats(&pool) {
            for shape @ [n, k] in SHAPES {
                group.throughput(Throughput::Bytes(format.size_bytes(shape) as u64));
                let name = format!("{name}/{}/{n}x{k}", pool.isa());
                measure(&mut group, name, &pool, &mut Vec::new(), (format, shape, 1));
            }
        }
    }
    group.finish();
}

fn matmul_rows(c: &mut Criterion) {
    let mut group = start(c, "matmul");
    let [shape @ [n, k], ..] = SHAPES;
    for pool in pools() {
        for (name, format) in formats(&pool) {
            let mut weights = Vec::new();
            for m in ROWS.into_iter().filter(|m| pool.isa() != Isa::Portable || *m <= ROWS_PORTABLE) {
                group.throughput(Throughput::Elements((m * n * k) as u64));
                let name = format!("{name}/rows={m}/{}", pool.isa());
                measure(&mut group, name, &pool, &mut weights, (format, shape, m));
            }
        }
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    matvec(&mut criterion);
    matmul_rows(&mut criterion);
    criterion.final_summary();
}
