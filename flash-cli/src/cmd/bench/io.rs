//! `bench io`: read throughput of the disk.

mod fio;
mod raw;
mod report;
mod sustained;
mod table;

use std::process::ExitCode;

use anyhow::Context;
use flash_io::{Catalog, IoMode, ReaderConfig, Tuning};

use super::ceiling::largest_shard;
use crate::args::BenchIoArgs;
use crate::{cache, foreign, output};
use report::{FioReport, Reader, Report};

/// Number of rounds, each measuring the reader and fio in turn; medians are reported.
const ROUNDS: usize = 3;

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
    if args.output.json {
        output::print_json(&report)?;
    } else {
        output::print(&table::render(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the median by `key`; none of an empty list.
fn median<T>(mut values: Vec<T>, key: impl Fn(&T) -> f64) -> Option<T> {
    values.sort_by(|a, b| key(a).total_cmp(&key(b)));
    let middle = values.len() / 2;
    values.into_iter().nth(middle)
}
