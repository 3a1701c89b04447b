//! `kv`: what outlives its runs.

mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use flash_kv::{collect_prefixes, remove_left_over_runs, remove_session};
use serde::Serialize;

use crate::args::{KvCommand, KvGcArgs, KvListArgs, KvPlaceArgs, KvRmArgs, KvShowArgs};
use crate::cache;
use crate::output;
use crate::size::Size;
use report::{Gone, Kept, Listed, Shown};

pub(crate) fn run(command: KvCommand) -> anyhow::Result<ExitCode> {
    match command {
        KvCommand::List(KvListArgs { place: KvPlaceArgs { kv_dir, json } }) => {
            let listed = Listed::new(dir(kv_dir))?;
            put_out(json, &listed, Listed::render)?;
        }
        KvCommand::Show(KvShowArgs { name, place: KvPlaceArgs { kv_dir, json } }) => {
            let shown = Shown::new(&dir(kv_dir), &name)?;
            put_out(json, &shown, Shown::render)?;
        }
        KvCommand::Rm(KvRmArgs { name, place: KvPlaceArgs { kv_dir, json } }) => {
            remove_session(&dir(kv_dir), &name)?;
            put_out(json, &Gone { name }, Gone::render)?;
        }
        KvCommand::Gc(KvGcArgs { max_bytes, place: KvPlaceArgs { kv_dir, json } }) => {
            let dir = dir(kv_dir);
            remove_left_over_runs(&dir)?;
            let kept = Kept::from(collect_prefixes(&dir, max_bytes.map_or(u64::MAX, Size::bytes))?);
            put_out(json, &kept, Kept::render)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn dir(said: Option<PathBuf>) -> PathBuf {
    said.unwrap_or_else(cache::kv_dir)
}

/// Prints a report, as JSON or for a person.
fn put_out<R: Serialize>(json: bool, report: &R, render: impl FnOnce(&R) -> String) -> anyhow::Result<()> {
    if json { output::print_json(report) } else { Ok(output::print(&render(report))?) }
}
