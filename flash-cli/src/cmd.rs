//! The commands, one file each.

mod bench;
mod chat;
mod convert;
mod inspect;
mod kv;
mod many;
mod pack;
mod perplexity;
mod plan;
mod pull;
mod run;

use std::process::ExitCode;

use crate::args::Command;
use crate::options::{ChatOptions, ConvertOptions, ManyOptions, PerplexityOptions, PlanOptions, RunOptions};
use crate::{logging, tf32};

/// Runs a command and returns its exit status.
pub(crate) fn run(command: Command) -> anyhow::Result<ExitCode> {
    logging::init(match &command {
        Command::Run(args) => args.engine.debug,
        Command::Chat(args) => args.engine.debug,
        Command::Perplexity(args) => args.engine.debug,
        Command::Inspect(_)
        | Command::Plan(_)
        | Command::Pull(_)
        | Command::Convert(_)
        | Command::Pack(_)
        | Command::Kv(_) => false,
        Command::Bench(args) => args.command.debug(),
    });
    tf32::log();
    match command {
        Command::Run(args) if args.many.prompts.is_some() => many::run(ManyOptions::resolve(args)?),
        Command::Run(args) => run::run(RunOptions::resolve(args)?),
        Command::Chat(args) => chat::run(ChatOptions::resolve(args)?),
        Command::Inspect(args) => inspect::run(&args),
        Command::Plan(args) => plan::run(&PlanOptions::resolve(args)?),
        Command::Perplexity(args) => perplexity::run(PerplexityOptions::resolve(args)?),
        Command::Pull(args) => pull::run(args),
        Command::Convert(args) => convert::run(&ConvertOptions::resolve(args)?),
        Command::Pack(args) => pack::run(&args),
        Command::Kv(args) => kv::run(args.command),
        Command::Bench(args) => bench::run(args),
    }
}
