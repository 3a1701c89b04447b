//! Goldens: what other programs make of the same input. Each is made by a Python script beside it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{models, native, run, venv};

/// How a script is run.
enum Script {
    /// It writes its files itself.
    Writes(&'static str),
    /// The same, from the directories of the demo model.
    WritesFromModels(&'static str),
    /// It prints its file, which has this name.
    Prints(&'static str, &'static str),
}

/// All but `flash-convert/tests/goldens/make_smollm2.py`: that describes what a converter makes that is none of ours,
/// and takes its output.
const SCRIPTS: [Script; 14] = [
    Script::Prints("flash-kernels/tests/goldens/make_affine.py", "affine.json"),
    Script::Prints("flash-kernels/tests/goldens/make_mx.py", "mx.json"),
    Script::Prints("flash-convert/tests/goldens/make_blocks.py", "blocks.json"),
    Script::Prints("flash-convert/tests/goldens/make_names.py", "names.json"),
    Script::Prints("flash-convert/tests/goldens/make_quantized.py", "quantized.json"),
    Script::Prints("flash-convert/tests/goldens/make_tokenizers.py", "tokenizers.json"),
    Script::Writes("flash-text/tests/goldens/tokenizers/make.py"),
    Script::Writes("flash-text/tests/goldens/tokenizers/make_added.py"),
    Script::Writes("flash-text/tests/goldens/templates/make.py"),
    Script::Writes("flash-text/tests/goldens/templates/make_expressions.py"),
    Script::Writes("flash-model/tests/goldens/sample/make.py"),
    Script::Writes("flash-model/tests/goldens/parity/make_tiny.py"),
    Script::Writes("flash-model/tests/goldens/mlx_lm_configs/make.py"),
    Script::WritesFromModels("flash-model/tests/goldens/parity/make_demo.py"),
];

/// Makes all goldens anew.
pub fn run() -> Result<()> {
    native::prepare(None)?;
    let models = models::ensure(&models::build_cli("dev")?)?;
    let python = venv::python()?;
    for script in &SCRIPTS {
        let (Script::Writes(path) | Script::WritesFromModels(path) | Script::Prints(path, _)) = script;
        eprintln!("{path}");
        let path = run::workspace().join(path);
        let mut command = Command::new(&python);
        // Nothing is to be left beside the scripts, and nothing to be fetched by them.
        command.arg("-B").arg(&path).env("HF_HUB_OFFLINE", "1").env("TOKENIZERS_PARALLELISM", "false");
        match script {
            Script::Writes(_) => run::check(&mut command)?,
            Script::WritesFromModels(_) => run::check(command.arg(&models))?,
            Script::Prints(_, name) => print_into(&mut command, &path.with_file_name(name))?,
        }
    }
    Ok(())
}

/// Runs `command`, and only when it has succeeded replaces `file` by what it printed.
fn print_into(command: &mut Command, file: &Path) -> Result<()> {
    let text = run::output(command)? + "\n";
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
