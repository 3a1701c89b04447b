//! Comparisons with other programs: the same model on the same machine, measured in turn in the same run.
//!
//! Machines are shared and vary from hour to hour, so only ratios within one run are meaningful. A round measures the
//! memory bandwidth, then each program. Medians of all rounds are printed.

mod confine;
mod flash;
mod instructions;
mod llama_batched_bench;
mod llama_bench;
mod llama_cpp;
mod memory;
mod mlx_lm;
mod model;
mod passes;
mod processor;
mod report;
mod samples;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Result, bail};
use bytesize::ByteSize;
use clap::{Args, Subcommand};

use crate::{native, venv};
use confine::Confinement;
use flash::Flash;
use instructions::Instructions;
use llama_cpp::LlamaCpp;
use memory::MemorySpeed;
use mlx_lm::Dtype;
use model::{Choice, Model};
use passes::Passes;
use report::Column;
use samples::Samples;

#[derive(Debug, Subcommand)]
pub enum With {
    /// Compare decode and prefill with llama.cpp's own benchmark (built from source on the first run)
    LlamaCpp {
        #[command(flatten)]
        common: CommonArgs,
        /// Decode this many tokens
        #[arg(long, value_name = "N", default_value = "64")]
        tokens: NonZeroUsize,
        /// Prefill prompts of these lengths; without a length, decode only
        #[arg(long, value_name = "N", value_delimiter = ',', num_args = 0.., default_value = "128,512")]
        prompts: Vec<NonZeroUsize>,
        /// Decode after a context of this many tokens, whose prefill is not measured
        #[arg(long, value_name = "N", default_value = "0")]
        depth: usize,
        /// Also decode for these numbers of clients at once
        #[arg(long, value_name = "N", value_delimiter = ',', num_args = 0..)]
        clients: Vec<NonZeroUsize>,
        /// Run both programs under this memory limit (2GiB, 500MB); needs Linux and root
        #[arg(long, value_name = "SIZE")]
        mem: Option<ByteSize>,
        /// Limit both programs to these instruction sets, which the processor must have
        #[arg(long, value_enum, default_value = "native")]
        instructions: Instructions,
    },
    /// Compare decode with mlx-lm on MLX's CPU backend, with the default dtype and in float32
    MlxLm {
        #[command(flatten)]
        common: CommonArgs,
        /// Decode this many tokens; few by default, because a token of mlx-lm may take seconds
        #[arg(long, value_name = "N", default_value = "16")]
        tokens: NonZeroUsize,
    },
}

#[derive(Debug, Args)]
pub struct CommonArgs {
    /// Compare with this model
    #[arg(long, value_enum, default_value = "demo")]
    model: Choice,
    /// Measure each program this many times, in turn
    #[arg(long, value_name = "N", default_value = "3")]
    rounds: NonZeroUsize,
    /// Compute with this many threads, on the first processors [default: all]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

/// Shared setup of all comparisons.
struct Setting {
    confinement: Confinement,
    rounds: usize,
    python: PathBuf,
    flash: Flash,
    memory: MemorySpeed,
    models: Vec<Model>,
}

impl Setting {
    fn prepare(args: CommonArgs, mem: Option<ByteSize>, instructions: Instructions) -> Result<Self> {
        let confinement = Confinement::new(args.threads, mem)?;
        native::prepare(None)?;
        let python = venv::python()?;
        let flash = Flash::build(instructions)?;
        let memory = MemorySpeed::build()?;
        let models = args.model.models(&python, flash.program())?;
        Ok(Self { confinement, rounds: args.rounds.get(), python, flash, memory, models })
    }

    /// Measures every model in rounds, and prints a table for each.
    fn compare(
        &self,
        passes: &Passes,
        mut columns: impl FnMut() -> Vec<Column>,
        mut round: impl FnMut(&Model, &mut [Column]) -> Result<()>,
    ) -> Result<()> {
        for model in &self.models {
            let mut columns = columns();
            let (mut memory, mut others) = (Samples::default(), Samples::default());
            for i in 1..=self.rounds {
                eprintln!("Round {i} of {}: {}", self.rounds, model.name);
                if let Some(busy) = processor::busy() {
                    others.push(100.0 * busy);
                }
                memory.push(self.memory.bytes_per_s(self.confinement.threads)? / 1e9);
                round(model, &mut columns)?;
            }
            println!("\n{}\n\nMemory reads {memory} GB/s.", model.name);
            if !others.is_empty() {
                println!("Before a round, other programs used {others} % of the processors.");
            }
            println!();
            println!("{}", report::table(&columns, passes, &memory));
        }
        Ok(())
    }

    /// Measures `flash-cli`, and stores the results in the last column.
    fn flash(&self, model: &Model, passes: &Passes, columns: &mut [Column]) -> Result<()> {
        let Some(column) = columns.last_mut() else { bail!("there is no column to fill") };
        let (decode, report) = self.flash.decode(model, passes, &self.confinement)?;
        column.decode.push(decode);
        column.token_bytes = report.model_bytes - model.unread_bytes;
        for (samples, &prompt) in column.prefill.iter_mut().zip(&passes.prompts) {
            samples.push(self.flash.prefill(&model.mlx, prompt, &self.confinement)?);
        }
        let clients = self.flash.clients(model, passes, &self.confinement)?;
        column.clients.iter_mut().zip(clients).for_each(|(samples, rate)| samples.push(rate));
        Ok(())
    }

    fn print_conditions(&self, lines: &[String]) -> Result<()> {
        println!("\n{}", self.flash.version()?);
        for line in lines {
            println!("{line}");
        }
        let Confinement { threads, memory, .. } = &self.confinement;
        let limit = memory.map_or("no memory limit".to_owned(), |memory| format!("in {memory} of memory"));
        println!("{}, {threads} threads, {limit}", processor::name());
        println!("Medians (min..max) of {} rounds", self.rounds);
        Ok(())
    }
}

pub fn run(with: With) -> Result<()> {
    match with {
        With::LlamaCpp { common, tokens, prompts, depth, clients, mem, instructions } => {
            let [prompts, clients] = [prompts, clients]
                .map(|numbers| numbers.into_iter().map(NonZeroUsize::get).collect::<Vec<_>>());
            if depth > 0 && !prompts.is_empty() {
                bail!("--depth only applies to decoding: give --prompts without a length");
            }
            with_llama_cpp(
                common,
                &Passes { n_tokens: tokens.get(), depth, prompts, clients },
                mem,
                instructions,
            )
        }
        With::MlxLm { common, tokens } => with_mlx_lm(common, tokens.get()),
    }
}

fn with_llama_cpp(
    common: CommonArgs,
    passes: &Passes,
    mem: Option<ByteSize>,
    instructions: Instructions,
) -> Result<()> {
    let setting = Setting::prepare(common, mem, instructions)?;
    let llama_cpp = LlamaCpp::ensure(&setting.python, instructions)?;
    let info = llama_cpp.system_info(&setting.python)?;
    setting.print_conditions(&[llama_cpp.version(), format!("which reports {info}")])?;
    let columns = || vec![Column::new("llama.cpp", passes), Column::new("flash", passes)];
    setting.compare(passes, columns, |model, columns| {
        let round = llama_bench::run(&llama_cpp, &model.gguf, passes, &setting.confinement)?;
        columns[0].decode.push(round.decode);
        columns[0].token_bytes = round.model_bytes - model.unread_bytes;
        for (samples, rate) in columns[0].prefill.iter_mut().zip(round.prefill) {
            samples.push(rate);
        }
        let Passes { n_tokens, clients, .. } = passes;
        if !clients.is_empty() {
            let rates =
                llama_batched_bench::run(&llama_cpp, &model.gguf, *n_tokens, clients, &setting.confinement)?;
            columns[0].clients.iter_mut().zip(rates).for_each(|(samples, rate)| samples.push(rate));
        }
        setting.flash(model, passes, columns)
    })
}

fn with_mlx_lm(common: CommonArgs, n_tokens: usize) -> Result<()> {
    let mut setting = Setting::prepare(common, None, Instructions::Native)?;
    let models = std::mem::take(&mut setting.models).into_iter();
    setting.models = models.map(|model| model.in_half_precision(&setting.python)).collect::<Result<_>>()?;
    setting.print_conditions(&[mlx_lm::version(&setting.python)?])?;
    let passes = Passes { n_tokens, depth: 0, prompts: Vec::new(), clients: Vec::new() };
    let columns = || Vec::from(["mlx-lm", "mlx-lm, float32", "flash"].map(|name| Column::new(name, &passes)));
    setting.compare(&passes, columns, |model, columns| {
        for (column, dtype) in columns.iter_mut().zip([Dtype::Stored, Dtype::Float32]) {
            let (python, confinement) = (&setting.python, &setting.confinement);
            column.decode.push(mlx_lm::decode(python, &model.mlx, n_tokens, dtype, confinement)?);
        }
        setting.flash(model, &passes, columns)?;
        // All columns run the same files; float32 only widens scales and biases.
        let token_bytes = columns.last().map_or(0, |ours| ours.token_bytes);
        columns.iter_mut().for_each(|column| column.token_bytes = token_bytes);
        Ok(())
    })
}
