//! How a model is opened and run.

use std::env;
use std::ffi::OsStr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use flash_io::{IoMode, Tuning};
use flash_kernels::Isa;
use flash_model::{Compute, ComputeOptions, KvFormat, KvPolicy, WhenFull};
use flash_sched::ByteRate;

use super::UsageError;
use crate::args::{ComputeArg, EngineArgs, EvictArg, KeepArgs, KvArgs};
use crate::cache;
use crate::model::ModelName;
use crate::modelfile::{Modelfile, TopK};
use crate::ram::Ram;
use crate::size::Size;

/// The variable that names the instruction set of the CPU kernels, if not the best of the machine.
const KERNELS_ENV: &str = "FLASH_KERNELS";

/// Reads at once: no disk has use for more.
pub(crate) const THREADS: RangeInclusive<usize> = 1..=256;
/// First tokens that are never given up, where `--kv-keep` does not say how many.
const KEEP_TOKENS: usize = 250;

#[derive(Debug)]
pub(crate) struct EngineSettings {
    pub(crate) model: ModelName,
    /// The budget, if someone says; otherwise it goes with what the machine can spare.
    pub(crate) ram: Option<Size>,
    pub(crate) io: IoMode,
    /// Reads at once, if someone says.
    pub(crate) read_depth: Option<usize>,
    pub(crate) read_rate: Option<ByteRate>,
    pub(crate) compute: ComputeOptions,
    pub(crate) prefetch: bool,
    /// Whether weights may be streamed; otherwise all must fit.
    pub(crate) stream: bool,
    /// How many experts a token takes, if not the model's own number.
    pub(crate) top_k: Option<TopK>,
    pub(crate) kv: KvPolicy,
    pub(crate) kv_dir: PathBuf,
    /// The session that is gone on with.
    pub(crate) session: Option<String>,
    pub(crate) share_prefixes: bool,
    pub(crate) debug: bool,
}

impl EngineSettings {
    /// How the disk of the model is read: as it was found out to be best, or as someone says.
    pub(crate) fn tuning(&self, model_dir: &Path) -> Tuning {
        let mut tuning = cache::tuning(model_dir, self.io);
        tuning.depth = self.read_depth.unwrap_or(tuning.depth);
        tuning
    }

    pub(crate) fn resolve(args: EngineArgs) -> anyhow::Result<Self> {
        let EngineArgs {
            model,
            modelfile,
            ram,
            kv,
            io,
            threads,
            max_read_rate,
            compute,
            exact,
            moe_top_k,
            no_pipeline,
            debug,
        } = args;
        let (kv, kv_dir) = kv_policy(kv)?;
        let file = modelfile.as_deref().map(Modelfile::open).transpose()?.unwrap_or_default();
        let read_depth = threads.or(file.threads);
        if let Some(threads) = read_depth
            && !THREADS.contains(&threads)
        {
            return Err(UsageError::Threads { threads, max: *THREADS.end() }.into());
        }
        let rate = |rate: Size| ByteRate::new(rate.bytes() as f64);
        Ok(Self {
            model: model.or(file.from).ok_or(UsageError::NoModel)?,
            // Whoever asks for auto does not want what the file says.
            ram: ram.map_or(file.ram, Ram::size),
            io: io.mode(),
            read_depth,
            read_rate: max_read_rate.map(rate).transpose()?,
            compute: ComputeOptions {
                compute: match compute {
                    None => Compute::Auto,
                    Some(ComputeArg::Mlx) => Compute::Mlx,
                    Some(ComputeArg::Native) => Compute::Native,
                },
                isa: isa(env::var_os(KERNELS_ENV).as_deref())?,
                is_exact: exact,
            },
            prefetch: !no_pipeline && file.prefetch_layers != Some(0),
            stream: file.flash.unwrap_or(true),
            top_k: moe_top_k
                .map(|n_experts| TopK { asked_by: "--moe-top-k".to_owned(), n_experts })
                .or(file.top_k)
                .filter(|top_k| top_k.n_experts > 0),
            kv,
            kv_dir,
            session: None,
            share_prefixes: false,
            debug,
        })
    }
}

impl EngineSettings {
    /// With what outlives the run, which is in pages.
    pub(crate) fn keep(mut self, args: KeepArgs) -> Self {
        let KeepArgs { session, prefix_cache } = args;
        self.kv.in_pages = session.is_some() || prefix_cache;
        Self { session, share_prefixes: prefix_cache, ..self }
    }
}

/// The instruction set that `FLASH_KERNELS` names; none if that is missing or empty.
fn isa(name: Option<&OsStr>) -> Result<Option<Isa>, UsageError> {
    let name = name.map(OsStr::to_string_lossy).filter(|name| !name.is_empty());
    name.map(|name| name.parse()).transpose().map_err(UsageError::Kernels)
}

/// How keys and values are kept, and where.
fn kv_policy(args: KvArgs) -> Result<(KvPolicy, PathBuf), UsageError> {
    let KvArgs { kv_quant, kv_window, max_kv_size, kv_keep, kv_dir, kv_max_bytes, kv_evict } = args;
    let format = match kv_quant {
        0 => KvFormat::Exact,
        4 => KvFormat::Int4,
        8 => KvFormat::Int8,
        16 => KvFormat::F16,
        bits => return Err(UsageError::KvQuantBits { bits }),
    };
    if kv_keep.is_some() && max_kv_size.is_none() && kv_evict.is_none() {
        return Err(UsageError::NothingGivenUp);
    }
    let mut policy = KvPolicy::new(format);
    policy.window_tokens = kv_window;
    policy.max_tokens = max_kv_size;
    policy.keep_tokens = kv_keep.unwrap_or(KEEP_TOKENS);
    policy.max_bytes = kv_max_bytes.map(Size::bytes);
    policy.when_full = match kv_evict {
        None => WhenFull::End,
        Some(EvictArg::Oldest) => WhenFull::EvictOldest,
    };
    let min = policy.max_tokens_min();
    match max_kv_size {
        Some(max_tokens) if max_tokens < min => Err(UsageError::MaxKvSize { max_tokens, min }),
        _ => Ok((policy, kv_dir.unwrap_or_else(cache::kv_dir))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flash_kernels_names_an_instruction_set_of_this_machine_or_is_refused() {
        assert_eq!(isa(None).unwrap(), None);
        assert_eq!(isa(Some(OsStr::new(""))).unwrap(), None);
        assert_eq!(isa(Some(OsStr::new("portable"))).unwrap(), Some(Isa::Portable));
        let error = isa(Some(OsStr::new("avx1024"))).unwrap_err().to_string();
        assert!(error.contains("FLASH_KERNELS") && error.contains("avx1024"), "{error}");
    }
}
