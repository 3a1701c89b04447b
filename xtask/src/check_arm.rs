//! Tests the kernels for `AArch64` on any Linux machine: cross-compiled, and run by QEMU's emulation of a processor.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::{run, rust_src};

const TARGET: &str = "aarch64-unknown-linux-gnu";

const LINKER: &str = "aarch64-linux-gnu-gcc";

const EMULATOR: &str = "qemu-aarch64";

/// Directory of the C library for [`TARGET`], where Debian has it.
const C_LIBRARY: &str = "/usr/aarch64-linux-gnu";

/// Debian packages with the linker, the C library and the emulator.
const PACKAGES: &str = "gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user";

/// Instruction sets of the emulated processor. A test fails if one is missing, since all others would pass without it.
const INSTRUCTION_SETS: &str = "neon,neon-dotprod,neon-i8mm";

/// Integration tests that are run, besides the unit tests. The others start processes, which the emulator cannot do, or
/// take minutes there for arithmetic that is compiled from plain Rust.
const TESTS: [&str; 10] = [
    "affine_golden",
    "fused",
    "gather",
    "layer",
    "matmul",
    "mx_golden",
    "recurrent",
    "rope",
    "strips",
    "wide",
];

/// Cases per property test. Emulated, they take ten times as long.
const CASES: &str = "16";

/// Runs the tests of flash-kernels for [`TARGET`].
pub fn run() -> Result<()> {
    if !cfg!(target_os = "linux") {
        eprintln!("Skipped: kernels for AArch64 under emulation, which needs Linux.");
        return Ok(());
    }
    if !(is_installed(LINKER) && is_installed(EMULATOR)) {
        eprintln!("Skipped: kernels for AArch64 under emulation. It needs {PACKAGES}.");
        return Ok(());
    }
    let Some(rust_src) = rust_src::find("kernels for AArch64 under emulation")? else { return Ok(()) };
    let mut tests = run::cargo();
    tests.args(["test", "--package", "flash-kernels", "--target", TARGET, "--lib"]);
    tests.args(TESTS.iter().flat_map(|name| ["--test", name]));
    // Compiled soon and run fast: only the kernels are optimized. Failed tests unwind.
    tests.args(["--profile", "quick", "--config", "profile.quick.panic='unwind'"]);
    rust_src.build_std(&mut tests);
    let variable = |name: &str| format!("CARGO_TARGET_{}_{name}", TARGET.to_uppercase().replace('-', "_"));
    tests
        .env(variable("LINKER"), LINKER)
        .env(variable("RUNNER"), format!("{EMULATOR} -cpu max -L {C_LIBRARY}"))
        .env("CARGO_TARGET_DIR", run::target().join("arm"))
        .env("FLASH_REQUIRE_INSTRUCTION_SETS", INSTRUCTION_SETS)
        .env("PROPTEST_CASES", CASES);
    run::check(&mut tests)
}

/// Whether `program` can be started.
fn is_installed(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}
