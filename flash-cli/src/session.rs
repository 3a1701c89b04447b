//! Opens a model and loads its engine, with the cheapest checks first.

use std::num::NonZeroU64;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use flash_io::{IoMode, Tuning};
use flash_model::{
    Checkpoint, Engine, EngineOptions, Model, ModelError, ModelOptions, SessionContext, Speculation,
    Workload, memory,
};
use flash_text::{TextError, Tokenizer};

use crate::elastic::MemoryWatcher;
use crate::listener::Listener;
use crate::model::ModelName;
use crate::modelfile::TopK;
use crate::options::EngineSettings;
use crate::size::Bytes;
use crate::transcript;
use crate::{budget, foreign, output, report};

/// A model with its headers and tokenizer loaded, and no weights.
#[derive(Debug)]
pub(crate) struct Session {
    dir: PathBuf,
    pub(crate) model: Model,
    pub(crate) tokenizer: Tokenizer,
    settings: EngineSettings,
    tuning: Tuning,
}

/// Why the settings are not possible with a model.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(
        "the Modelfile sets FLASH false, but with a budget of {budget}, {pass} of the weights would be streamed",
        budget = Bytes(*budget_bytes), pass = Bytes(*pass_bytes)
    )]
    WouldStream { budget_bytes: u64, pass_bytes: u64 },
    #[error("{} is {}, but {source}", top_k.source, top_k.n_experts)]
    TopK { top_k: TopK, source: ModelError },
}

impl Session {
    pub(crate) fn open(settings: EngineSettings) -> anyhow::Result<Self> {
        let dir = settings.model.find_to_run()?;
        let tuning = settings.tuning(&dir);
        let options = settings.model_options()?;
        let (model, tokenizer) = open_both(&dir, || {
            let model = open_model(&dir, tuning.mode, options)?;
            if settings.session.is_some() || settings.share_prefixes {
                model.identify(&settings.kv_dir)?;
            }
            Ok(model)
        });
        let (mut model, tokenizer) = (model?, tokenizer?);
        if let Some(top_k) = &settings.top_k {
            let trained = override_top_k(&mut model, top_k)?;
            output::note(&format!(
                "each token is routed to {} experts instead of {trained}: the output changes",
                top_k.n_experts
            ));
        }
        Ok(Self { dir, model, tokenizer, settings, tuning })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the workload of a prompt and its answer. The context is limited to the trained one, unless the prompt
    /// alone is longer: then it is unlimited, and the engine warns.
    pub(crate) fn workload(&self, prompt_tokens: usize, answer_tokens: usize) -> Workload {
        let trained_tokens = self.model.max_context_tokens().unwrap_or(usize::MAX);
        let end = if prompt_tokens <= trained_tokens { trained_tokens } else { usize::MAX };
        let context_tokens = prompt_tokens.saturating_add(answer_tokens).min(end);
        let EngineSettings { prefetch, kv, .. } = self.settings;
        Workload::new(prompt_tokens, context_tokens).with_prefetch(prefetch).with_kv(kv)
    }

    /// Returns the workload with memory for drafts, if there are any.
    pub(crate) fn with_drafts(&self, workload: Workload, speculation: Speculation) -> Workload {
        let EngineSettings { ram, ref session, share_prefixes, .. } = self.settings;
        // As the engine plans it.
        let mut planned = workload;
        planned.kv.is_paged |= session.is_some() || share_prefixes;
        let n_rows = match speculation {
            Speculation::Off => 0,
            _ => self.model.affordable_tentative_rows(&planned, budget::bytes(ram)),
        };
        workload.with_tentative_rows(n_rows)
    }

    /// Opens the session to resume, if one was given, and locks it.
    pub(crate) fn open_context(&self) -> Result<Option<SessionContext>, ModelError> {
        let EngineSettings { session, kv_dir, kv, .. } = &self.settings;
        let Some(name) = session else { return Ok(None) };
        let context = self.model.open_session(kv_dir, name, kv)?;
        transcript::report_recovery(name, context.token_ids().len(), context.resumption());
        Ok(Some(context))
    }

    /// Returns the name of the session to resume, if one was given.
    pub(crate) fn session_name(&self) -> Option<&str> {
        self.settings.session.as_deref()
    }

    /// Loads the engine, with the budget of the settings.
    pub(crate) fn load(self, workload: Workload) -> anyhow::Result<Loaded> {
        self.load_with(workload, None, None)
    }

    /// Loads the engine, resuming the session `context` and writing a trace to the file `trace`.
    pub(crate) fn load_with(
        self,
        workload: Workload,
        context: Option<SessionContext>,
        trace: Option<PathBuf>,
    ) -> anyhow::Result<Loaded> {
        let Self { model, tokenizer, settings, tuning, .. } = self;
        let budget_bytes = budget::bytes(settings.ram);
        if settings.debug {
            report::print_needs(&model, &workload, budget_bytes);
        }
        let experts = model.experts(&workload, budget_bytes);
        let missing_bytes = experts.map_or(0, |experts| experts.missing_bytes());
        let EngineSettings { read_rate, debug, stream, kv_dir, share_prefixes, .. } = settings;
        let listener = Listener::start(trace, model.bundles().map(|bundle| bundle.name))?;
        let (listener, events) = listener.unzip();
        let mut options = EngineOptions::new(budget_bytes, workload);
        (options.reader, options.read_rate, options.events) = (tuning.into(), read_rate, events);
        (options.kv_dir, options.share_prefixes) = (kv_dir, share_prefixes);
        let engine = match context {
            Some(context) => model.resume(&options, context)?,
            None => model.load(&options)?,
        };
        if debug {
            report::print_plan(&engine);
        }
        let pass_bytes = engine.stats().pass_bytes.max(missing_bytes);
        if !stream && pass_bytes > 0 {
            return Err(SessionError::WouldStream { budget_bytes, pass_bytes }.into());
        }
        let watcher = settings.ram.is_none().then(|| {
            MemoryWatcher::start(engine.allowance(), engine.useful_bytes(), budget::headroom(budget_bytes))
        });
        Ok(Loaded { engine, tokenizer, io: tuning.mode, listener, watcher })
    }
}

/// A loaded engine, with the threads that observe it.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) engine: Engine,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) io: IoMode,
    /// Receives the events of the engine, if they are traced or shown.
    pub(crate) listener: Option<Listener>,
    /// Adapts the budget to the free memory of the machine, with `--ram auto`.
    pub(crate) watcher: Option<MemoryWatcher>,
}

/// Opens the model in `dir` by `open`, and its tokenizer, at the same time: both take about as long, and the first read
/// waits for both.
fn open_both(
    dir: &Path,
    open: impl FnOnce() -> anyhow::Result<Model>,
) -> (anyhow::Result<Model>, Result<Tokenizer, TextError>) {
    let both = thread::scope(|scope| {
        let tokenizer = scope.spawn(|| Tokenizer::open(dir));
        (open(), tokenizer.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    // Parsing takes more memory than the result, and resident memory counts against the budget.
    memory::trim();
    both
}

/// Opens a model directory, reading headers only.
pub(crate) fn open_model(dir: &Path, io: IoMode, options: impl Into<ModelOptions>) -> anyhow::Result<Model> {
    foreign::check_pointers(dir)?;
    let opened = Checkpoint::open(dir, io).and_then(|checkpoint| Model::open_on(checkpoint, options));
    opened.map_err(|error| foreign::explain(dir, error.into()))
}

/// Overrides the number of experts per token, and returns the trained number.
pub(crate) fn override_top_k(model: &mut Model, top_k: &TopK) -> anyhow::Result<usize> {
    let trained = model.override_top_k(top_k.n_experts);
    Ok(trained.map_err(|source| SessionError::TopK { top_k: top_k.clone(), source })?)
}

/// Opens a model to inspect it, and its tokenizer if it has one: the floor includes the memory of the process, which in
/// `run` holds the tokenizer.
pub(crate) fn open_headers(
    model: &ModelName,
    tile_rows: Option<NonZeroU64>,
) -> anyhow::Result<(Model, Option<Tokenizer>)> {
    let dir = model.find_to_run()?;
    let options = ModelOptions { tile_rows, ..ModelOptions::default() };
    // Only headers are read, so any I/O mode works.
    let (model, tokenizer) = open_both(&dir, || open_model(&dir, IoMode::Pread, options));
    let model = model?;
    let tokenizer = match tokenizer {
        Ok(tokenizer) => Some(tokenizer),
        Err(TextError::NoTokenizer { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    Ok((model, tokenizer))
}
