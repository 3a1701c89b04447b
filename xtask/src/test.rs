//! Runs all checks of CI: format, lints, docs, archives, tests, and the commands of the README.

use std::env;
use std::process::Command;

use anyhow::Result;

use crate::{check_arm, check_macos, dist, models, native, readme, run};

pub fn run() -> Result<()> {
    native::prepare(None)?;
    run::check(run::cargo().args(["fmt", "--all", "--check"]))?;
    run::check(run::cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--",
        "-D",
        "warnings",
    ]))?;
    // On macOS, that was the same.
    if cfg!(target_os = "linux") {
        check_macos::run()?;
    }
    let flags = env::var("RUSTDOCFLAGS").unwrap_or_default() + " -D warnings";
    run::check(
        run::cargo()
            .args(["doc", "--workspace", "--all-features", "--no-deps"])
            .env("RUSTDOCFLAGS", flags.trim()),
    )?;
    let flash_cli = models::build_tests()?;
    let models = models::ensure(&flash_cli)?;
    if cfg!(target_os = "linux") {
        dist::check(&flash_cli, &models.join("kept"))?;
    }
    run::check(
        run::cargo()
            .args(["test", "--workspace", "--all-features"])
            .env("FLASH_TEST_MODELS", models)
            .env("FLASH_TEST_GGUF", models::gguf()?)
            // A missing model fails the tests instead of skipping them.
            .env("FLASH_REQUIRE_MODELS", "1"),
    )?;
    // Real clients, as far as their packages can be installed.
    run::check(&mut Command::new(run::workspace().join("flash-serve/tests/clients/run.sh")))?;
    model_check()?;
    check_arm::run()?;
    readme::check()
}

/// Model-checks the slots of flash-io with loom, which takes seconds. The flag applies to all crates, so the build has
/// a separate target directory.
fn model_check() -> Result<()> {
    let flags = env::var("RUSTFLAGS").unwrap_or_default() + " --cfg loom";
    run::check(
        run::cargo()
            .args(["test", "--package", "flash-io", "--lib", "interleavings"])
            .env("RUSTFLAGS", flags.trim())
            .env("CARGO_TARGET_DIR", run::target().join("loom")),
    )
}
