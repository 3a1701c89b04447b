//! A tiny model with saved and restored contexts.

use std::path::{Path, PathBuf};

use flash_io::IoMode;
use flash_kv::KvError;
use flash_model::{
    Checkpoint, Compute, Engine, EngineOptions, KvFormat, KvPolicy, Model, ModelError, Recovery, Resumption,
    Workload,
};

use crate::tiny::{Format, Tiny};

const CONTEXT_TOKENS: usize = 1500;
pub(crate) const FORMATS: [KvFormat; 4] = [KvFormat::Exact, KvFormat::F16, KvFormat::Int8, KvFormat::Int4];
pub(crate) const TINY: Tiny = Tiny {
    layers: 3,
    heads: 4,
    kv_heads: 2,
    vocab: 90,
    tied: true,
    biases: false,
    experts: None,
    format: Format::Affine(4),
    seed: 12,
};

/// A model, a directory for caches, and a cache configuration.
#[derive(Debug)]
pub(crate) struct Bench {
    pub dir: tempfile::TempDir,
    pub compute: Compute,
    pub kv: KvPolicy,
    /// Fraction of the model and the cache that the budget has room for beyond the minimum.
    pub room: f64,
    pub share_prefixes: bool,
    /// Name of the committed model; `None` for a random one.
    committed: Option<&'static str>,
}

impl Bench {
    pub(crate) fn new(format: KvFormat) -> Self {
        Self::of(None, format)
    }

    /// Uses a committed model.
    pub(crate) fn committed(name: &'static str, format: KvFormat) -> Self {
        Self::of(Some(name), format)
    }

    fn of(committed: Option<&'static str>, format: KvFormat) -> Self {
        let dir = model_dir(committed);
        let mut kv = KvPolicy::new(format);
        kv.is_paged = true;
        Self { dir, compute: Compute::Auto, kv, room: 0.0, share_prefixes: false, committed }
    }

    pub(crate) fn kv_dir(&self) -> PathBuf {
        self.dir.path().join("kv")
    }

    pub(crate) fn session_dir(&self) -> PathBuf {
        self.kv_dir().join("sessions/talk")
    }

    pub(crate) fn model(&self) -> Model {
        Model::open_on(Checkpoint::open(self.dir.path(), IoMode::Pread).unwrap(), self.compute).unwrap()
    }

    pub(crate) fn options(&self, model: &Model) -> EngineOptions {
        let workload = Workload::new(CONTEXT_TOKENS, CONTEXT_TOKENS).with_kv(self.kv);
        let all_bytes = model.model_bytes() + model.kv_token_bytes() * CONTEXT_TOKENS as u64;
        let budget_bytes = model.floor_bytes(&workload) + (self.room * all_bytes as f64) as u64;
        let mut options = EngineOptions::new(budget_bytes, workload);
        (options.kv_dir, options.share_prefixes) = (self.kv_dir(), self.share_prefixes);
        options
    }

    /// Opens an engine without a session.
    pub(crate) fn open(&self) -> Engine {
        let model = self.model();
        let options = self.options(&model);
        model.load(&options).unwrap()
    }

    pub(crate) fn try_resume(&self) -> Result<(Engine, Resumption), ModelError> {
        let model = self.model();
        let options = self.options(&model);
        let context = model.open_session(&self.kv_dir(), "talk", &self.kv)?;
        let tokens = context.token_ids().to_vec();
        let how = match context.resumption() {
            Resumption::New => Resumption::New,
            Resumption::Saved { is_exact } => Resumption::Saved { is_exact: *is_exact },
            Resumption::Recovered(recovery) => Resumption::Recovered(Box::new(copy(recovery))),
        };
        let engine = model.resume(&options, context)?;
        assert_eq!(engine.held(), tokens);
        Ok((engine, how))
    }

    pub(crate) fn resume(&self) -> (Engine, Resumption) {
        self.try_resume().unwrap()
    }

    /// Resumes the session, which must have been saved.
    pub(crate) fn saved(&self) -> Engine {
        let (engine, how) = self.resume();
        assert!(matches!(how, Resumption::Saved { is_exact: true }), "{how:?}");
        engine
    }

    /// Resumes the session after a crash, and says whether it is exact.
    pub(crate) fn recovered(&self) -> (Engine, Recovery) {
        match self.resume() {
            (engine, Resumption::Recovered(recovery)) => (engine, *recovery),
            (_, how) => panic!("{how:?}"),
        }
    }

    /// Returns the bits after the last of these tokens, computed in one pass by a separate engine.
    pub(crate) fn wanted(&self, tokens: &[u32]) -> Vec<u32> {
        bits(&mut self.alone(), tokens)
    }

    /// Opens a separate engine with a directory of its own.
    pub(crate) fn alone(&self) -> Engine {
        let dir = model_dir(self.committed);
        Self { dir, room: 4.0, share_prefixes: false, ..*self }.open()
    }
}

fn model_dir(committed: Option<&str>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let Some(name) = committed else {
        TINY.write(dir.path());
        return dir;
    };
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny").join(name);
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(from.join(file), dir.path().join(file)).unwrap();
    }
    dir
}

/// Copies a recovery, except errors that cannot be copied.
fn copy(recovery: &Recovery) -> Recovery {
    let mut copied = Recovery::default();
    copied.is_exact = recovery.is_exact;
    copied.tokens_without_state = recovery.tokens_without_state;
    if let Some(KvError::TailDamaged { path, part, wanted, got }) = &recovery.lost {
        copied.lost =
            Some(KvError::TailDamaged { path: path.clone(), part: *part, wanted: *wanted, got: *got });
    }
    copied
}

pub(crate) fn tokens(n: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * i + 31 * i + 7) % TINY.vocab) as u32).collect()
}

/// Returns other tokens than [`tokens`].
pub(crate) fn others(n: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * i * 3 + 5 * i + 1) % TINY.vocab) as u32).collect()
}

pub(crate) fn bits(engine: &mut Engine, ids: &[u32]) -> Vec<u32> {
    engine.forward(ids).unwrap().iter().map(|logit| logit.to_bits()).collect()
}
