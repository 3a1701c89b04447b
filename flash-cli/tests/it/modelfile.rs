//! Modelfiles of `run`.

use crate::support::tiny::Tiny;
use crate::support::{assert_refused, flash_cli, floor_mib, json, output};

/// Writes a Modelfile to the directory of the model, and runs it.
fn run(tiny: &Tiny, text: &str, more: &[&str]) -> std::process::Output {
    tiny.write("Modelfile", text.as_bytes());
    let file = tiny.path("Modelfile");
    let mut command = flash_cli(["run", "--prompt", "5", "--max-tokens", "2", "--json"]);
    command.arg("--modelfile").arg(file).args(more).output().unwrap()
}

#[test]
fn settings_are_taken_and_flags_override_them() {
    let tiny = Tiny::new(2);
    let text = "# all of them\nFROM .\nFLASH true\nFLASH_RAM_GB 0.5\nFLASH_THREADS 2\nFLASH_PREFETCH_LAYERS 1\nFLASH_TOP_K 0\n";
    assert_eq!(json(&run(&tiny, text, &[]))["budget_bytes"], 512 << 20);
    assert_eq!(json(&run(&tiny, text, &["--ram", "300MiB"]))["budget_bytes"], 300 << 20);
    assert_eq!(json(&run(&tiny, "FROM .\nFLASH_RAM_GB 512M\n", &[]))["budget_bytes"], 512 << 20);
    let elsewhere = Tiny::new(1);
    let overridden = json(&run(&tiny, text, &["--model", elsewhere.dir()]));
    assert!(overridden["model_bytes"].as_u64() < json(&run(&tiny, text, &[]))["model_bytes"].as_u64());
}

#[test]
fn invalid_directives_are_rejected_with_their_line() {
    let tiny = Tiny::new(1);
    let unknown = run(&tiny, "FROM .\n\nTEMPLATE x\n", &[]);
    assert_refused(&unknown, 2, &["Modelfile: line 3: unknown directive \"TEMPLATE\""]);
    let malformed = run(&tiny, "FROM .\nFLASH_THREADS many\n", &[]);
    assert_refused(&malformed, 2, &["Modelfile: line 2: FLASH_THREADS is \"many\""]);
    assert_refused(&run(&tiny, "FLASH 1\n", &[]), 2, &["--modelfile with a FROM directive"]);
}

#[test]
fn missing_modelfile_is_named() {
    let missing = output(["run", "--prompt", "5", "--modelfile", "/nowhere/Modelfile"]);
    assert_refused(&missing, 1, &["/nowhere/Modelfile: No such file or directory"]);
}

#[test]
fn experts_of_a_model_without_any_are_refused() {
    let tiny = Tiny::new(1);
    let refused = run(&tiny, "FROM .\nFLASH_TOP_K 4\n", &[]);
    assert_refused(&refused, 1, &["Modelfile: line 2: FLASH_TOP_K is 4, but the model has no experts"]);
    // A flag overrides it, and names itself.
    let refused = run(&tiny, "FROM .\nFLASH_TOP_K 4\n", &["--moe-top-k", "3"]);
    assert_refused(&refused, 1, &["--moe-top-k is 3, but the model has no experts"]);
    let own = run(&tiny, "FROM .\nFLASH_TOP_K 4\n", &["--moe-top-k", "0"]);
    assert!(own.status.success(), "the model's own number");
}

#[test]
fn flash_false_refuses_to_stream() {
    let tiny = Tiny::new(160);
    let text = "FROM .\nFLASH false\n";
    assert_eq!(json(&run(&tiny, text, &[]))["streamed_bytes"], 0);
    let floor_mib = floor_mib(["run", "--prompt", "5", "--max-tokens", "2", "--model", tiny.dir()]);
    let refused = run(&tiny, text, &["--ram", &format!("{}MiB", floor_mib + 1)]);
    assert_refused(&refused, 1, &["FLASH false", "would be streamed"]);
}
