//! Configurations in all layouts are honoured or refused.

mod known_fields;
mod mlx_lm;
mod rope_settings;

use std::fs;
use std::path::{Path, PathBuf};

use flash_io::{IoMode, parse_python_json};
use flash_model::{Checkpoint, Compute, Engine, EngineOptions, Model, ModelError, Workload};
use serde_json::{Map, Value};
use tempfile::TempDir;

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// Returns the directory of a committed model.
fn fixture(name: &str) -> PathBuf {
    tests().join("fixtures/tiny").join(name)
}

fn config_of(name: &str) -> Map<String, Value> {
    parse_python_json(&fs::read_to_string(fixture(name).join("config.json")).unwrap()).unwrap()
}

/// Returns the settings of the text model.
fn text(config: &mut Map<String, Value>) -> &mut Map<String, Value> {
    match config.contains_key("text_config") {
        true => config["text_config"].as_object_mut().unwrap(),
        false => config,
    }
}

/// Copies a committed model, with another configuration.
fn with_config(name: &str, config: &Map<String, Value>) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in fs::read_dir(fixture(name)).unwrap() {
        let path = file.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    fs::write(dir.path().join("config.json"), Value::Object(config.clone()).to_string()).unwrap();
    dir
}

fn open(name: &str, config: &Map<String, Value>) -> Result<Model, ModelError> {
    let dir = with_config(name, config);
    Model::open(Checkpoint::open(dir.path(), IoMode::Pread)?)
}

/// Loads an engine with all weights in memory.
fn engine(dir: &Path, context_tokens: usize) -> Engine {
    engine_on(dir, context_tokens, Compute::Auto)
}

/// Loads an engine with all weights in memory, on a given backend.
fn engine_on(dir: &Path, context_tokens: usize, compute: Compute) -> Engine {
    let model = Model::open_on(Checkpoint::open(dir, IoMode::Pread).unwrap(), compute).unwrap();
    model.load(&EngineOptions::new(1 << 40, Workload::new(context_tokens, context_tokens))).unwrap()
}

/// Returns the logits after a prompt that is longer than the windows of the committed models.
fn logits(dir: &Path) -> Vec<f32> {
    let prompt: Vec<u32> = (0..60).map(|idx| idx * 7 % 90).collect();
    engine(dir, prompt.len()).forward(&prompt).unwrap()
}
