//! `kv`: manages saved sessions and cached prefixes.

mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use flash_kv::{evict_prefixes, remove_session, remove_stale_runs};
use serde::Serialize;

use crate::args::{KvCommand, KvDirArgs, KvGcArgs, KvListArgs, KvRmArgs, KvShowArgs};
use crate::cache;
use crate::output;
use crate::size::Size;
use report::{GcReport, ListReport, RemoveReport, ShowReport};

pub(crate) fn run(command: KvCommand) -> anyhow::Result<ExitCode> {
    match command {
        KvCommand::List(KvListArgs { dir: KvDirArgs { kv_dir, json } }) => {
            let report = ListReport::new(dir(kv_dir))?;
            print_report(json, &report, ListReport::render)?;
        }
        KvCommand::Show(KvShowArgs { name, dir: KvDirArgs { kv_dir, json } }) => {
            let report = ShowReport::new(&dir(kv_dir), &name)?;
            print_report(json, &report, ShowReport::render)?;
        }
        KvCommand::Rm(KvRmArgs { name, dir: KvDirArgs { kv_dir, json } }) => {
            remove_session(&dir(kv_dir), &name)?;
            print_report(json, &RemoveReport { name }, RemoveReport::render)?;
        }
        KvCommand::Gc(KvGcArgs { max_bytes, dir: KvDirArgs { kv_dir, json } }) => {
            let dir = dir(kv_dir);
            remove_stale_runs(&dir)?;
            let report = GcReport::from(evict_prefixes(&dir, max_bytes.map_or(u64::MAX, Size::bytes))?);
            print_report(json, &report, GcReport::render)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn dir(given: Option<PathBuf>) -> PathBuf {
    given.unwrap_or_else(cache::kv_dir)
}

/// Prints a report, as JSON or as text.
fn print_report<R: Serialize>(
    json: bool,
    report: &R,
    render: impl FnOnce(&R) -> String,
) -> anyhow::Result<()> {
    if json { output::print_json(report) } else { Ok(output::print(&render(report))?) }
}
