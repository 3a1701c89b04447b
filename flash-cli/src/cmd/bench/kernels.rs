//! `bench kernels`: products of a few rows of activations with weights in memory, against the read rate of memory.
//!
//! Decoding reads each weight once per token, so a product of one row is as fast as memory at best. More rows cost
//! nothing while memory is the limit, and their share of the time once arithmetic is.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::ensure;
use flash_io::{Budget, Slot};
use flash_kernels::{FloatType, Floats, Isa, KernelError, KernelTuning, Matrix, Mx, Pool, matmul, sum_words};
use flash_model::memory;
use serde::Serialize;

use crate::args::{BenchKernelsArgs, JsonArg};
use crate::size::Bytes;
use crate::table::{Cell, left, section};
use crate::{cache, options, output};

/// Rows and columns of a matrix, those of attention in a model with 8 · 10⁹ parameters.
const SHAPE: [usize; 2] = [4096, 4096];
/// Numbers of rows of activations.
const ROWS: [usize; 6] = [1, 2, 4, 8, 16, 64];
/// Columns of the table before those of the speeds.
const COLUMNS: [&str; 4] = ["format", "kernels", "prefetch", "layout"];
/// Minimum number of products per measurement, of which the median counts.
const PRODUCTS_MIN: usize = 7;
/// 2⁻⁶ in f16, a scale and a bias that keep sums finite.
const F16: u16 = 9 << 10;
/// 2⁻⁷ as the exponent of a microscaling format.
const EXPONENT: u8 = 120;

/// Storage format of weights.
#[derive(Debug, Clone, Copy)]
enum Format {
    /// Affine, with f16 scales and biases.
    Affine {
        bits: u32,
        group: usize,
    },
    Mxfp4,
    F16,
}

const FORMATS: [Format; 6] = [
    Format::Affine { bits: 4, group: 32 },
    Format::Affine { bits: 4, group: 64 },
    Format::Affine { bits: 4, group: 128 },
    Format::Affine { bits: 8, group: 64 },
    Format::Mxfp4,
    Format::F16,
];

#[derive(Debug, Serialize)]
struct Report {
    /// Kernels that models run with.
    tuning: Tuning,
    /// Read rate of memory with these threads.
    memory_bytes_per_s: f64,
    products: Vec<Row>,
}

/// The fastest measured tuning of an instruction set's kernels.
#[derive(Debug, Serialize)]
struct Tuning {
    kernels: &'static str,
    threads: usize,
    prefetch: &'static str,
    /// Widths of codes that layers in memory store in strips.
    strips_bits: Vec<u32>,
}

impl From<&KernelTuning> for Tuning {
    fn from(tuning: &KernelTuning) -> Self {
        let strips = [(4, tuning.strips_4_bits), (8, tuning.strips_8_bits)];
        Self {
            kernels: tuning.isa.name(),
            threads: tuning.n_threads.get(),
            prefetch: tuning.prefetch.name(),
            strips_bits: strips.iter().filter(|(_, uses)| *uses).map(|(bits, _)| *bits).collect(),
        }
    }
}

/// Speed of one format with one instruction set.
#[derive(Debug, Serialize)]
struct Row {
    format: String,
    kernels: &'static str,
    prefetch: &'static str,
    /// Rows of weights that are interleaved if the layer stays in memory; 1 if they are multiplied as stored.
    strip_rows: usize,
    /// Numbers of rows of activations, and the bytes of weights multiplied per second.
    rows: Vec<usize>,
    bytes_per_s: Vec<f64>,
}

pub(crate) fn run(args: &BenchKernelsArgs) -> anyhow::Result<ExitCode> {
    let BenchKernelsArgs { kernels, memory, ms, output: JsonArg { json } } = args;
    let given = kernels.iter().map(|name| name.parse()).collect::<Result<Vec<Isa>, _>>()?;
    let isas = match given.as_slice() {
        [] => match Isa::available() {
            [portable] => std::slice::from_ref(portable),
            [_, others @ ..] => others,
            [] => &[],
        },
        given => given,
    };
    let tunings = isas.iter().map(|isa| cache::measure_kernels(*isa)).collect::<Result<Vec<_>, _>>()?;
    let isa = options::kernels()?.unwrap_or_else(Isa::best);
    let pool = Pool::new(cache::kernels(isa)?)?;
    let mut memory = Memory::new(memory.bytes(), Duration::from_millis(*ms))?;
    let memory_bytes_per_s = memory.bytes_per_s(&pool);
    let mut products = Vec::new();
    for format in FORMATS {
        memory.fill(format);
        for tuning in &tunings {
            products.push(memory.measure(&Pool::new(*tuning)?, format)?);
        }
    }
    let report = Report { tuning: pool.tuning().into(), memory_bytes_per_s, products };
    if *json {
        output::print_json(&report)?;
    } else {
        let heading = format!(
            "Weights multiplied, GB/s; memory is read at {:.1} GB/s by {} threads, and models run with {}",
            report.memory_bytes_per_s / 1e9,
            report.tuning.threads,
            report.tuning.kernels
        );
        output::print(&section(&heading, &table(&report)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Weights larger than all caches, in memory like that of layers.
struct Memory {
    slot: Slot,
    /// Minimum time per measurement.
    time: Duration,
}

impl Memory {
    fn new(bytes: u64, time: Duration) -> anyhow::Result<Self> {
        let free_bytes = memory::available_bytes();
        ensure!(bytes <= free_bytes, "--memory {}: {} are free", Bytes(bytes), Bytes(free_bytes));
        let matrix_bytes = FORMATS.map(Format::matrix_bytes).into_iter().max().unwrap_or(0) as u64;
        ensure!(bytes >= matrix_bytes, "--memory must be at least {}, a matrix", Bytes(matrix_bytes));
        Ok(Self { slot: Slot::unpooled(&Budget::new(u64::MAX), usize::try_from(bytes)?)?, time })
    }

    fn bytes_per_s(&mut self, pool: &Pool) -> f64 {
        self.slot.fill(1);
        let bytes = self.slot.as_slice();
        let mut times = Times::default();
        while !times.are_enough(self.time) {
            black_box(times.measure(|| sum_words(pool, bytes)));
        }
        bytes.len() as f64 / times.median().as_secs_f64()
    }

    /// Writes random codes or numbers, and scales of one value.
    fn fill(&mut self, format: Format) {
        let mut rng = fastrand::Rng::with_seed(1);
        for bytes in self.slot.as_mut_slice().chunks_exact_mut(format.matrix_bytes()) {
            let (codes, scales_and_biases) = bytes.split_at_mut(format.parts()[0]);
            match format {
                Format::F16 => fill_f16(codes),
                Format::Affine { .. } | Format::Mxfp4 => rng.fill(codes),
            }
            match format {
                Format::Mxfp4 => scales_and_biases.fill(EXPONENT),
                Format::Affine { .. } | Format::F16 => fill_f16(scales_and_biases),
            }
        }
    }

    fn measure(&self, pool: &Pool, format: Format) -> Result<Row, KernelError> {
        let [n, k] = SHAPE;
        let strip_rows = match format {
            Format::Affine { bits, .. } => pool.strips(bits).map_or(1, flash_kernels::Strips::rows),
            Format::Mxfp4 | Format::F16 => 1,
        };
        let matrices = self.slot.as_slice().chunks_exact(format.matrix_bytes());
        let matrices = matrices.map(|bytes| format.matrix(pool, bytes)).collect::<Result<Vec<_>, _>>()?;
        let mut bytes_per_s = Vec::new();
        for m in ROWS {
            let x: Vec<f32> = (0..m * k).map(|idx| (idx * 29 % 31) as f32 / 31.0 - 0.5).collect();
            let (mut y, mut times) = (vec![0.0; m * n], Times::default());
            for matrix in matrices.iter().cycle() {
                if times.are_enough(self.time) {
                    break;
                }
                times.measure(|| matmul(pool, &x, matrix, None, &mut y))?;
            }
            bytes_per_s.push(format.matrix_bytes() as f64 / times.median().as_secs_f64());
        }
        Ok(Row {
            format: format.name(),
            kernels: pool.isa().name(),
            prefetch: pool.tuning().prefetch.name(),
            strip_rows,
            rows: ROWS.to_vec(),
            bytes_per_s,
        })
    }
}

fn fill_f16(bytes: &mut [u8]) {
    bytes.as_chunks_mut().0.iter_mut().for_each(|number| *number = F16.to_le_bytes());
}

impl Format {
    fn name(self) -> String {
        match self {
            Self::Affine { bits, group } => format!("q{bits}g{group}"),
            Self::Mxfp4 => "mxfp4".to_owned(),
            Self::F16 => "f16".to_owned(),
        }
    }

    /// Bytes of the codes or numbers, the scales and the biases of a matrix.
    fn parts(self) -> [usize; 3] {
        let [n, k] = SHAPE;
        match self {
            Self::Affine { bits, group } => {
                [n * k / 8 * bits as usize, n * (k / group) * 2, n * (k / group) * 2]
            }
            Self::Mxfp4 => [Mx::Fp4.codes_bytes(n * k), n * k / Mx::Fp4.group_size(), 0],
            Self::F16 => [n * k * 2, 0, 0],
        }
    }

    fn matrix_bytes(self) -> usize {
        self.parts().iter().sum()
    }

    /// Returns the matrix in `bytes`, in the layout of a layer that stays in memory. Random codes need not be
    /// rearranged for it.
    fn matrix<'a>(self, pool: &Pool, bytes: &'a [u8]) -> Result<Matrix<'a>, KernelError> {
        let [codes_bytes, scales_bytes, _] = self.parts();
        let (codes, rest) = bytes.split_at(codes_bytes);
        let (scales, biases) = rest.split_at(scales_bytes);
        match self {
            Self::Affine { bits, group } => {
                let rows = Matrix::affine(SHAPE, bits, group, codes, FloatType::F16, scales, biases)?;
                pool.strips(bits).map_or(Ok(rows), |strips| rows.in_strips(strips))
            }
            Self::Mxfp4 => Matrix::mxfp4(SHAPE, codes, scales),
            Self::F16 => Matrix::float(SHAPE, Floats { float: FloatType::F16, bytes: codes }),
        }
    }
}

/// Times of repeated calls.
#[derive(Default)]
struct Times {
    times: Vec<Duration>,
    all: Duration,
}

impl Times {
    fn measure<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = call();
        let time = begin.elapsed();
        self.times.push(time);
        self.all += time;
        result
    }

    fn are_enough(&self, time: Duration) -> bool {
        self.all >= time && self.times.len() >= PRODUCTS_MIN
    }

    fn median(&self) -> Duration {
        super::trial::median(self.times.iter().copied())
    }
}

fn table(report: &Report) -> Vec<Vec<Cell>> {
    let right = |text: String| (text, true);
    let heads = ROWS.map(|m| right(if m == 1 { "1 row".to_owned() } else { format!("{m} rows") }));
    let mut table = vec![COLUMNS.map(left).into_iter().chain(heads).collect()];
    table.extend(report.products.iter().map(|row| {
        let layout = match row.strip_rows {
            1 => "rows".to_owned(),
            strip_rows => format!("strips of {strip_rows}"),
        };
        let speed = |bytes_per_s: &f64| {
            let share = bytes_per_s / report.memory_bytes_per_s;
            right(format!("{:.1} ({:.0} %)", bytes_per_s / 1e9, 100.0 * share))
        };
        let cells = [left(&row.format), left(row.kernels), left(row.prefetch), left(&layout)];
        cells.into_iter().chain(row.bytes_per_s.iter().map(speed)).collect::<Vec<_>>()
    }));
    table
}
