//! Settings of a model and its engine, shared by all commands that run one.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use flash_io::{IoMode, Tuning};
use flash_kernels::Isa;
use flash_model::{Compute, ComputeOptions, KvFormat, KvPolicy, ModelOptions, WhenFull};
use flash_sched::ByteRate;

use crate::args::{ComputeArg, EngineArgs, EvictArg, KvArgs, PersistArgs};
use crate::cache;
use crate::model::ModelName;
use crate::modelfile::{Modelfile, TopK};
use crate::ram::Ram;
use crate::size::Size;
use crate::usage::{THREADS, UsageError};

/// Environment variable that overrides the instruction set of the CPU kernels.
const KERNELS_ENV: &str = "FLASH_KERNELS";

/// Default of `--kv-keep`: first tokens that are never evicted.
const KEEP_TOKENS: usize = 250;

#[derive(Debug)]
pub(crate) struct EngineSettings {
    pub(crate) model: ModelName,
    /// Memory budget, if given; otherwise it follows the free memory of the machine.
    pub(crate) ram: Option<Size>,
    pub(crate) io: IoMode,
    /// Number of concurrent reads, if given.
    pub(crate) read_depth: Option<usize>,
    pub(crate) read_rate: Option<ByteRate>,
    layers: ModelOptions,
    /// Instruction set of the CPU kernels, if not the best one.
    isa: Option<Isa>,
    pub(crate) prefetch: bool,
    /// Whether weights may be streamed; otherwise all must fit in memory.
    pub(crate) stream: bool,
    /// Experts per token, if different from the trained number.
    pub(crate) top_k: Option<TopK>,
    pub(crate) kv: KvPolicy,
    pub(crate) kv_dir: PathBuf,
    /// Name of the session to resume or create.
    pub(crate) session: Option<String>,
    pub(crate) share_prefixes: bool,
    pub(crate) debug: bool,
}

impl EngineSettings {
    /// Returns how to read the disk of the model: as measured to be best, with overrides from flags.
    pub(crate) fn tuning(&self, model_dir: &Path) -> Tuning {
        let mut tuning = cache::tuning(model_dir, self.io);
        tuning.depth = self.read_depth.unwrap_or(tuning.depth);
        tuning
    }

    /// Returns the options of the model, with the CPU kernels as measured to be best on this machine.
    pub(crate) fn model_options(&self) -> anyhow::Result<ModelOptions> {
        let mut options = self.layers;
        if options.compute.compute.is_native()? {
            options.compute.kernels = Some(cache::kernels(self.isa.unwrap_or_else(Isa::best))?);
        }
        Ok(options)
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
            tiling,
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
            // `--ram auto` overrides a budget in the Modelfile.
            ram: ram.map_or(file.ram, Ram::size),
            io: io.mode(),
            read_depth,
            read_rate: max_read_rate.map(rate).transpose()?,
            layers: ModelOptions {
                tile_rows: tiling.rows(),
                ..ModelOptions::from(ComputeOptions {
                    compute: match compute {
                        None => Compute::Auto,
                        Some(ComputeArg::Mlx) => Compute::Mlx,
                        Some(ComputeArg::Native) => Compute::Native,
                    },
                    is_exact: exact,
                    ..ComputeOptions::default()
                })
            },
            isa: kernels()?,
            prefetch: !no_pipeline && file.prefetch_layers != Some(0),
            stream: file.flash.unwrap_or(true),
            top_k: moe_top_k
                .map(|n_experts| TopK { source: "--moe-top-k".to_owned(), n_experts })
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
    /// Adds the flags that keep KV pages between runs. Both put the KV cache in pages.
    pub(crate) fn persist(mut self, args: PersistArgs) -> Self {
        let PersistArgs { session, prefix_cache } = args;
        self.kv.is_paged = session.is_some() || prefix_cache;
        Self { session, share_prefixes: prefix_cache, ..self }
    }
}

/// Returns the instruction set in `FLASH_KERNELS`, if there is one.
///
/// # Errors
/// [`UsageError::Kernels`] for one that this machine does not have.
pub(crate) fn kernels() -> Result<Option<Isa>, UsageError> {
    isa(env::var_os(KERNELS_ENV).as_deref())
}

/// Parses the instruction set in `FLASH_KERNELS`; none if the variable is missing or empty.
fn isa(name: Option<&OsStr>) -> Result<Option<Isa>, UsageError> {
    let name = name.map(OsStr::to_string_lossy).filter(|name| !name.is_empty());
    name.map(|name| name.parse()).transpose().map_err(UsageError::Kernels)
}

/// Returns the KV cache policy and the directory of its pages.
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
        return Err(UsageError::KeepWithoutEviction);
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
