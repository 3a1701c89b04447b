//! Checks that the archives run on a machine without Rust and without a compiler: nothing but the archive, a model, and
//! for the wheel Python.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;

use super::Archives;
use super::layout::PROGRAM;
use crate::run;

/// Runs its arguments with the function of the Python package, as a program with the same exit status.
const RUN_SCRIPT: &str = "import flash, sys; sys.exit(flash.run(sys.argv[1:]).returncode)";

/// A run of the demo model that does not hold it in memory, without the model's directory.
const ARGS: [&str; 8] =
    ["run", "--ram", "80MiB", "--max-tokens", "8", "--prompt", "The capital of France is", "--model"];

/// The beginning of the demo model's continuation.
const EXPECTED: &str = " Paris";

/// Runs the model with both archives, and prints how long the first text took after `pip install`.
pub fn run(archives: &Archives, model: &Path) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let environment = Environment::create(dir.path())?;
    environment.install(&archives.wheel)?;
    let installed = Instant::now();
    let first_text = generate("flash-cli of the wheel", environment.command("flash-cli"), model)?;
    eprintln!(
        "The wheel runs: first text {:.2?} after pip install, the last after {:.2?}",
        first_text.duration_since(installed),
        installed.elapsed()
    );
    let mut python = environment.command("python");
    python.args(["-c", RUN_SCRIPT]);
    generate("flash.run of the wheel", python, model)?;
    let mut python = environment.command("python");
    python.args(["-m", "flash"]);
    generate("python -m flash of the wheel", python, model)?;

    let program = unpack(&archives.tarball, dir.path())?;
    generate("flash-cli of the tarball", environment.bare(&program), model)?;
    eprintln!("The tarball runs");
    Ok(())
}

/// Runs the model with a command of `flash-cli`, and returns when the first text arrived.
fn generate(name: &str, mut command: Command, model: &Path) -> Result<Instant> {
    command.args(ARGS).arg(model).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
    let mut output = child.stdout.take().expect("piped above");
    let mut text = vec![0; EXPECTED.len()];
    let is_complete = output.read_exact(&mut text).is_ok();
    let first_text = Instant::now();
    output.read_to_end(&mut text)?;
    let status = child.wait()?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    let text = String::from_utf8_lossy(&text);
    if !is_complete || !text.starts_with(EXPECTED) {
        bail!("{name} continues the prompt with {text:?}, expected {EXPECTED:?}");
    }
    Ok(first_text)
}

/// Unpacks the tarball, and returns the path of the program in it.
fn unpack(tarball: &Path, dir: &Path) -> Result<PathBuf> {
    tar::Archive::new(GzDecoder::new(fs::File::open(tarball)?)).unpack(dir)?;
    let name =
        tarball.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".tar.gz"));
    Ok(dir.join(name.context("the tarball has no name")?).join(PROGRAM))
}

/// A new Python environment, and a home directory without any file.
struct Environment {
    bin: PathBuf,
    home: PathBuf,
}

impl Environment {
    fn create(dir: &Path) -> Result<Self> {
        let (venv, home) = (dir.join("venv"), dir.join("home"));
        fs::create_dir(&home)?;
        run::check(Command::new("python3").args(["-m", "venv"]).arg(&venv)).context(
            "python3 could not create an environment; Python 3.9 or newer with its venv module is needed",
        )?;
        Ok(Self { bin: venv.join("bin"), home })
    }

    /// Installs a wheel without any access to the network.
    fn install(&self, wheel: &Path) -> Result<()> {
        let mut pip = self.command("python");
        pip.args(["-m", "pip", "--isolated", "--disable-pip-version-check", "--quiet", "install"]);
        run::check(pip.args(["--no-index", "--no-deps", "--no-cache-dir"]).arg(wheel))
    }

    /// Returns a command of a program of the environment.
    fn command(&self, program: &str) -> Command {
        self.bare(&self.bin.join(program))
    }

    /// Returns a command that finds only the programs of the environment: no compiler, and no library of this machine
    /// by a variable.
    fn bare(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", &self.bin).env("HOME", &self.home).current_dir(&self.home);
        command
    }
}
