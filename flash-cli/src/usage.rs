//! Errors of flags that are invalid by themselves or together, and the limits they are checked against.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use flash_kernels::KernelError;
use flash_model::sample::SampleError;

/// Allowed numbers of concurrent reads. No disk gets faster with more.
pub(crate) const THREADS: RangeInclusive<usize> = 1..=256;

/// Why flags are rejected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    #[error("no model was given: use --model MODEL, or --modelfile with a FROM directive")]
    NoModel,
    #[error("no prompt was given: use --prompt TEXT or --prompt-file FILE, or pipe text to standard input")]
    NoPrompt,
    #[error("--kv-quant must be 0, 4, 8 or 16, found {bits}")]
    KvQuantBits { bits: u32 },
    #[error("--max-kv-size must be at least {min} with this --kv-keep and --kv-window, found {max_tokens}")]
    MaxKvSize { max_tokens: usize, min: usize },
    #[error("--kv-keep has no effect without --max-kv-size or --kv-evict, which evict old tokens")]
    KeepWithoutEviction,
    #[error("--max-tokens must be at least 1 in a chat, found 0")]
    ChatMaxTokens,
    #[error("--threads must be from 1 to {max}, found {threads}")]
    Threads { threads: usize, max: usize },
    #[error("FLASH_KERNELS: {0}")]
    Kernels(KernelError),
    #[error("--ctx must be at least {min}, found {ctx}")]
    Context { ctx: usize, min: usize },
    #[error("{flag} needs --chat: it is a setting of the chat template")]
    TemplateWithoutChat { flag: &'static str },
    #[error("--think and --no-think set enable_thinking, which --chat-template-kwargs sets, too")]
    ThinkingTwice,
    #[error("{dir}: the chat template has no variable {name:?}, so setting it has no effect")]
    UnknownVariable { name: String, dir: PathBuf },
    #[error("session {session} has a different system prompt: omit --system, or use another session")]
    OtherSystem { session: String },
    #[error("--stop must not be empty")]
    EmptyStop,
    #[error("{0}")]
    Sample(#[from] SampleError),
    #[error("{flag} {bits} --group-size {group_size}: {error}")]
    Quantize { flag: &'static str, bits: u32, group_size: usize, error: KernelError },
    #[error("no source was given: use --gguf FILE or --hf MODEL")]
    NoSource,
}

/// Returns the context size `ctx` if it is at least `min`.
pub(crate) fn context_at_least(min: usize, ctx: usize) -> Result<usize, UsageError> {
    if ctx < min { Err(UsageError::Context { ctx, min }) } else { Ok(ctx) }
}
