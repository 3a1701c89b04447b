//! `kv`: what outlives its runs.

mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use flash_kv::{collect_prefixes, remove_left_over_runs, remove_session};

use crate::args::{KvCommand, KvGcArgs, KvListArgs, KvPlaceArgs, KvRmArgs, KvShowArgs};
use crate::cache;
use crate::output;
use crate::size::{Bytes, Size};
use report::{Gone, Kept, Listed, Shown};

pub(crate) fn run(command: KvCommand) -> anyhow::Result<ExitCode> {
    match command {
        KvCommand::List(KvListArgs { place }) => {
            let json = place.json;
            let listed = Listed::new(dir(place))?;
            if json { output::print_json(&listed)? } else { output::print(&listed.render())? }
        }
        KvCommand::Show(KvShowArgs { name, place }) => {
            let json = place.json;
            let shown = Shown::new(&dir(place), &name)?;
            if json { output::print_json(&shown)? } else { output::print(&shown.render())? }
        }
        KvCommand::Rm(KvRmArgs { name, place }) => {
            let json = place.json;
            remove_session(&dir(place), &name)?;
            if json {
                output::print_json(&Gone { name })?
            } else {
                output::print(&format!("{name}: removed\n"))?
            }
        }
        KvCommand::Gc(KvGcArgs { max_bytes, place }) => {
            let json = place.json;
            let dir = dir(place);
            remove_left_over_runs(&dir)?;
            let kept = Kept::from(collect_prefixes(&dir, max_bytes.map_or(u64::MAX, Size::bytes))?);
            let Kept { pages, freed_bytes, kept_bytes } = kept;
            let line = format!(
                "{pages} pages of prefixes removed, {} freed, {} kept\n",
                Bytes(freed_bytes),
                Bytes(kept_bytes)
            );
            if json { output::print_json(&kept)? } else { output::print(&line)? }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn dir(place: KvPlaceArgs) -> PathBuf {
    place.kv_dir.unwrap_or_else(cache::kv_dir)
}
