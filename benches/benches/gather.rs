//! `gather_matvec/<isa>/<format>/<experts>x<n>x<k>`: one token, routed to 8 experts. Bytes are those of their weights.
//! The experts rotate, and together exceed all caches, so that reads come from memory.
//!
//! `gather_matmul/<isa>/<format>/<experts>x<n>x<k>/<tokens>`: tokens routed to 8 experts each, evenly. Elements are
//! multiplications.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use flash_benches::{Format, Weights, activations};
use flash_kernels::{FloatType, Isa, MatrixStack, Mx, Pool, gather_matmul};

/// Experts per layer, as in a model with 30 · 10⁹ parameters.
const N_EXPERTS: usize = 128;
const N: usize = 768;
const K: usize = 2048;
const TOP_K: usize = 8;

/// Step between chosen experts, coprime to [`N_EXPERTS`], so that successive tokens use different experts and all
/// experts are used evenly.
const STRIDE: usize = 37;

const TOKENS: [usize; 3] = [16, 128, 512];

const FORMATS: [Format; 4] = [
    Format::Affine { bits: 4, group: 64 },
    Format::Affine { bits: 8, group: 64 },
    Format::Float(FloatType::BF16),
    Format::Mx(Mx::Fp4),
];

/// Returns the rows and experts of `n_tokens` tokens from `first` on.
fn choice(first: usize, n_tokens: usize) -> (Vec<u32>, Vec<u32>) {
    let rows = (0..n_tokens * TOP_K).map(|idx| (idx / TOP_K) as u32);
    let experts = (0..n_tokens * TOP_K).map(|idx| ((first * TOP_K + idx) * STRIDE % N_EXPERTS) as u32);
    (rows.collect(), experts.collect())
}

fn gather(c: &mut Criterion) {
    for format in FORMATS {
        for isa in Isa::available().iter().filter(|isa| **isa != Isa::Portable) {
            let n_threads = Pool::for_machine(Isa::best()).unwrap().n_threads();
            let pool = Pool::with_isa(n_threads.try_into().unwrap(), *isa).unwrap();
            let mut weights = None;
            let name = format!("{isa}/{format}/{N_EXPERTS}x{N}x{K}");
            let mut case = |n_tokens: usize, group: &str, name: String, throughput: Throughput| {
                let mut group = c.benchmark_group(group);
                group.sample_size(10).measurement_time(Duration::from_secs(2)).throughput(throughput);
                let (x, mut y) = (activations(n_tokens * K), vec![0.0; n_tokens * TOP_K * N]);
                let mut turn = 0;
                group.bench_function(name, |b| {
                    let weights = weights.get_or_insert_with(|| Weights::new(format, [N_EXPERTS * N, K]));
                    let stack = MatrixStack::split(&weights.matrix().unwrap(), N_EXPERTS).unwrap();
                    b.iter(|| {
                        let (lhs, rhs) = choice(turn, n_tokens);
                        turn = (turn + n_tokens) % N_EXPERTS;
                        gather_matmul(&pool, &x, &stack, None, &lhs, &rhs, &mut y).unwrap();
                    });
                });
                group.finish();
            };
            let bytes = TOP_K * format.size_bytes([N, K]);
            case(1, "gather_matvec", name.clone(), Throughput::Bytes(bytes as u64));
            for n_tokens in TOKENS {
                let n_products = (n_tokens * TOP_K * N * K) as u64;
                case(
                    n_tokens,
                    "gather_matmul",
                    format!("{name}/{n_tokens}"),
                    Throughput::Elements(n_products),
                );
            }
        }
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    gather(&mut criterion);
    criterion.final_summary();
}
