//! From settings to an engine, in the order in which problems are cheapest to find.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use flash_io::{IoMode, Tuning};
use flash_model::{
    Checkpoint, Compute, ComputeOptions, Engine, EngineOptions, Model, ModelError, SessionContext, Workload,
    memory,
};
use flash_text::{TextError, Tokenizer};

use crate::elastic::Watch;
use crate::kept;
use crate::listener::Listener;
use crate::model::ModelName;
use crate::modelfile::TopK;
use crate::options::EngineSettings;
use crate::size::Bytes;
use crate::{budget, foreign, output, report};

/// A model whose headers and tokenizer were read.
#[derive(Debug)]
pub(crate) struct Session {
    dir: PathBuf,
    pub(crate) model: Model,
    pub(crate) tokenizer: Tokenizer,
    settings: EngineSettings,
    tuning: Tuning,
}

/// Why settings do not fit a model.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(
        "the Modelfile says FLASH false, but a budget of {budget} leaves {pass} of the weights to be streamed",
        budget = Bytes(*budget_bytes), pass = Bytes(*pass_bytes)
    )]
    WouldStream { budget_bytes: u64, pass_bytes: u64 },
    #[error("{} is {}, but {source}", top_k.asked_by, top_k.n_experts)]
    TopK { top_k: TopK, source: ModelError },
}

impl Session {
    pub(crate) fn open(settings: EngineSettings) -> anyhow::Result<Self> {
        let dir = settings.model.find()?;
        let tuning = settings.tuning(&dir);
        let (model, tokenizer) = thread::scope(|scope| {
            // Each takes as long as the other, and the first read waits for both.
            let tokenizer = scope.spawn(|| Tokenizer::open(&dir));
            let model = open_model(&dir, tuning.mode, settings.compute).and_then(|model| {
                if settings.session.is_some() || settings.share_prefixes {
                    model.identify(&settings.kv_dir)?;
                }
                Ok(model)
            });
            (model, tokenizer.join().unwrap_or_else(|panic| resume_unwind(panic)))
        });
        let (mut model, tokenizer) = (model?, tokenizer?);
        if let Some(top_k) = &settings.top_k {
            let trained = override_top_k(&mut model, top_k)?;
            output::note(&format!(
                "each token takes {} experts instead of {trained}: what the model says is not the same",
                top_k.n_experts
            ));
        }
        // Reading them takes more memory than having them, and what is resident now counts against the budget.
        memory::trim();
        Ok(Self { dir, model, tokenizer, settings, tuning })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What a prompt of so many tokens, and an answer, ask of memory. The answer ends with the context that the model was trained
    /// for, unless the prompt is longer than that: then there is no end, and the engine warns.
    pub(crate) fn workload(&self, prompt_tokens: usize, answer_tokens: usize) -> Workload {
        let trained_tokens = self.model.max_context_tokens().unwrap_or(usize::MAX);
        let end = if prompt_tokens <= trained_tokens { trained_tokens } else { usize::MAX };
        let context_tokens = prompt_tokens.saturating_add(answer_tokens).min(end);
        let EngineSettings { prefetch, kv, .. } = self.settings;
        Workload::new(prompt_tokens, context_tokens).with_prefetch(prefetch).with_kv(kv)
    }

    /// The session that is to be gone on with, if one is. Nobody else can use it from now on.
    pub(crate) fn context(&self) -> Result<Option<SessionContext>, ModelError> {
        let EngineSettings { session, kv_dir, kv, .. } = &self.settings;
        let Some(name) = session else { return Ok(None) };
        let context = self.model.open_session(kv_dir, name, kv)?;
        kept::tell(name, context.token_ids().len(), context.resumption());
        Ok(Some(context))
    }

    /// The name of that session.
    pub(crate) fn context_name(&self) -> Option<&str> {
        self.settings.session.as_deref()
    }

    /// Chooses the budget, and takes the memory.
    pub(crate) fn load(self, workload: Workload) -> anyhow::Result<Loaded> {
        self.load_with(workload, None, None)
    }

    /// The same, goes on with a session, and writes to a file what happens when.
    pub(crate) fn load_with(
        self,
        workload: Workload,
        context: Option<SessionContext>,
        trace: Option<PathBuf>,
    ) -> anyhow::Result<Loaded> {
        let Self { model, tokenizer, settings, tuning, .. } = self;
        let budget_bytes = budget::bytes(settings.ram);
        if settings.debug {
            report::needs(&model, &workload, budget_bytes);
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
            report::plan(&engine);
        }
        let pass_bytes = engine.stats().pass_bytes.max(missing_bytes);
        if !stream && pass_bytes > 0 {
            return Err(SessionError::WouldStream { budget_bytes, pass_bytes }.into());
        }
        let watch = settings
            .ram
            .is_none()
            .then(|| Watch::start(engine.allowance(), engine.useful_bytes(), budget::headroom(budget_bytes)));
        Ok(Loaded { engine, tokenizer, io: tuning.mode, listener, watch })
    }
}

/// A model that runs.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) engine: Engine,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) io: IoMode,
    /// Who is told what the engine does, if anyone is.
    pub(crate) listener: Option<Listener>,
    /// Who looks at the machine's memory, if the budget goes with that.
    pub(crate) watch: Option<Watch>,
}

/// Opens a model directory; reads headers only.
pub(crate) fn open_model(
    dir: &Path,
    io: IoMode,
    compute: impl Into<ComputeOptions>,
) -> anyhow::Result<Model> {
    foreign::check_pointers(dir)?;
    let opened = Checkpoint::open(dir, io).and_then(|checkpoint| Model::open_on(checkpoint, compute));
    opened.map_err(|error| foreign::explain(dir, error.into()))
}

/// Has tokens take as many experts as someone asks for; returns how many they took.
pub(crate) fn override_top_k(model: &mut Model, top_k: &TopK) -> anyhow::Result<usize> {
    let trained = model.override_top_k(top_k.n_experts);
    Ok(trained.map_err(|source| SessionError::TopK { top_k: top_k.clone(), source })?)
}

/// Opens a model to look at it, and the tokenizer if it has one: a floor counts what the process has, and `run`
/// would have it.
pub(crate) fn open_to_look(model: &ModelName) -> anyhow::Result<(Model, Option<Tokenizer>)> {
    let dir = model.find()?;
    // Only headers are read, so any way to read will do.
    let model = open_model(&dir, IoMode::Pread, Compute::Auto)?;
    let tokenizer = match Tokenizer::open(&dir) {
        Ok(tokenizer) => Some(tokenizer),
        Err(TextError::NoTokenizer { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    memory::trim();
    Ok((model, tokenizer))
}
