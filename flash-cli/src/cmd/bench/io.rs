//! `bench io`: how fast the disk gives the weights.

mod fio;
mod raw;
mod sustained;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use flash_io::{Catalog, IoMode, ReaderConfig, Tuning};
use serde::Serialize;

use super::ceiling::largest_shard;
use crate::args::BenchIoArgs;
use crate::{cache, foreign, output};
use fio::Fio;
use raw::Cell;
use sustained::Sustained;

/// The reader and fio are measured in turn so often; medians are reported.
const ROUNDS: usize = 3;

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    /// The file that is read by itself, the largest of the model.
    shard: PathBuf,
    shard_bytes: u64,
    cells: Vec<Cell>,
    /// Whether it was too short to be read only once in all of that.
    repeats: bool,
    ceiling_bytes_per_s: f64,
    reader: Reader,
    fio: Option<FioReport>,
}

/// The reader as the engine uses it.
#[derive(Debug, Serialize)]
struct Reader {
    io: &'static str,
    depth: usize,
    chunk_bytes: usize,
    #[serde(flatten)]
    sustained: Sustained,
    ceiling_fraction: f64,
}

#[derive(Debug, Serialize)]
struct FioReport {
    /// As it is.
    plain: Fio,
    /// With its buffer in huge pages, as slots are.
    huge_pages: Fio,
    /// What the reader sustains of the faster of the two.
    reader_fraction: f64,
}

pub(crate) fn run(args: &BenchIoArgs) -> anyhow::Result<ExitCode> {
    let model_dir = args.model.find()?;
    let tuning = cache::tuning(&model_dir, IoMode::Auto);
    let Tuning { mode, depth, chunk_bytes } = tuning;
    let catalog =
        Catalog::open(&model_dir, mode).map_err(|error| foreign::explain(&model_dir, error.into()))?;
    let (shard, shard_bytes) = largest_shard(&catalog)?;
    if args.fio {
        fio::check()?;
    }

    let modes: Vec<_> = args.io.iter().map(|io| io.mode()).collect();
    let modes = if modes.is_empty() { vec![IoMode::Uring, IoMode::Direct, IoMode::Pread] } else { modes };
    let (cells, repeats) = raw::measure(&shard, shard_bytes, &modes)?;

    let config = ReaderConfig::from(tuning);
    let (mut readers, mut plain, mut huge) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        readers.push(sustained::measure(&catalog, config.clone())?);
        if args.fio {
            plain.push(fio::run(&shard, false)?);
            huge.push(fio::run(&shard, true)?);
        }
    }
    let sustained = median(readers, |sustained| sustained.bytes_per_s).context("no round was measured")?;
    let fio = median(plain, |fio| fio.bytes_per_s).zip(median(huge, |fio| fio.bytes_per_s));
    let fio = fio.map(|(plain, huge_pages)| FioReport {
        reader_fraction: sustained.bytes_per_s / plain.bytes_per_s.max(huge_pages.bytes_per_s),
        plain,
        huge_pages,
    });
    let ceiling_bytes_per_s = cells.iter().map(|cell| cell.bytes_per_s).fold(0.0, f64::max);
    let reader = Reader {
        io: mode.name(),
        depth,
        chunk_bytes,
        ceiling_fraction: sustained.bytes_per_s / ceiling_bytes_per_s,
        sustained,
    };
    let report = Report { shard, shard_bytes, cells, repeats, ceiling_bytes_per_s, reader, fio };
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(&table::render(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The one in the middle; none of none.
fn median<T>(mut values: Vec<T>, key: impl Fn(&T) -> f64) -> Option<T> {
    values.sort_by(|a, b| key(a).total_cmp(&key(b)));
    let middle = values.len() / 2;
    values.into_iter().nth(middle)
}
