//! Invalid flags, and the help.

use predicates::prelude::*;

use crate::support::tiny::Tiny;
use crate::support::{assert_refused, flash_cli, output, stderr, stdout};

const VERBS: [&str; 9] = ["run", "chat", "inspect", "plan", "perplexity", "pull", "convert", "kv", "bench"];

#[test]
fn help_names_every_verb_and_the_exit_codes() {
    let help = output(["--help"]);
    assert!(help.status.success());
    for part in
        VERBS.into_iter().chain(["Usage: flash-cli <COMMAND>", "SIZE is a number of GiB", "130 after Ctrl-C"])
    {
        assert!(predicate::str::contains(part).eval(stdout(&help)), "{part}");
    }
}

#[test]
fn help_of_every_verb_says_what_each_flag_does() {
    for verb in VERBS {
        let help = output([verb, "--help"]);
        assert!(help.status.success(), "{verb}");
        for line in stdout(&help).lines() {
            let Some(flag) = line.trim_start().strip_prefix("--") else { continue };
            assert!(flag.contains("  "), "{verb}: no help for --{flag}");
        }
    }
}

#[test]
fn help_of_run_has_the_flags_in_groups() {
    let help = output(["run", "--help"]);
    let text = stdout(&help);
    let place = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part} is not in {text}"));
    let order = [
        "--model <MODEL>",
        "--prompt <TEXT>",
        "--json",
        "Memory and disk:",
        "--ram <SIZE>",
        "Sampling:",
        "--temp <T>",
    ];
    assert!(order.is_sorted_by_key(|part| place(part)), "{text}");
}

#[test]
fn version_is_that_of_the_package() {
    assert_eq!(stdout(&output(["--version"])), format!("flash-cli {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn without_a_verb_the_help_goes_to_stderr() {
    let output = output::<&str>([]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(2), ""));
    assert!(stderr(&output).contains("Commands:"));
}

#[test]
fn unknown_flags_and_verbs_suggest_the_known() {
    assert_refused(&output(["run", "--modle", "x"]), 2, &["'--modle'", "did you mean '--model'?"]);
    assert_refused(&output(["rum"]), 2, &["'rum'", "did you mean 'run'?"]);
    assert_refused(&output(["run", "--io", "direkt"]), 2, &["'direkt'", "--io", "did you mean 'direct'?"]);
}

#[test]
fn missing_flags_are_named() {
    assert_refused(&output(["inspect"]), 2, &["--model <MODEL>"]);
    assert_refused(&output(["convert", "--gguf", "x"]), 2, &["--out <DIR>"]);
    assert_refused(&output(["run", "--prompt", "5"]), 2, &["--model MODEL"]);
}

#[test]
fn flags_that_exclude_each_other_are_named() {
    let both = output(["run", "--model", "x", "--prompt", "5", "--prompt-file", "y"]);
    assert_refused(&both, 2, &["--prompt <TEXT>", "--prompt-file <FILE>"]);
    let both = output(["convert", "--gguf", "x", "--out", "y", "--keep", "--dtype", "f16"]);
    assert_refused(&both, 2, &["--keep", "--dtype <TYPE>"]);
    let alone = output(["convert", "--gguf", "x", "--out", "y", "--group-size", "32"]);
    assert_refused(&alone, 2, &["--quantize <BITS>"]);
}

#[test]
fn invalid_sizes_are_rejected() {
    let table = [
        ("-1", "must be positive"),
        ("0", "must be positive"),
        ("NaN", "is not a size"),
        ("1e400", "is not a size"),
        ("99999999999999999999", "is too large"),
        ("12 parsecs", "is not a size"),
        ("", "--ram"),
    ];
    for (size, complaint) in table {
        let output = output(["run", "--model", "x", "--prompt", "5", &format!("--ram={size}")]);
        assert_refused(&output, 2, &["--ram", complaint]);
    }
}

#[test]
fn invalid_sampling_settings_are_rejected() {
    let table = [
        ("--temp", "NaN", "temperature must be 0 or more, found NaN"),
        ("--temp", "-1", "temperature must be 0 or more, found -1"),
        ("--temp", "inf", "temperature must be 0 or more, found inf"),
        ("--temp", "hot", "'--temp <T>'"),
        ("--top-p", "0", "top_p must be"),
        ("--top-p", "1.5", "top_p must be"),
        ("--min-p", "-0.1", "min_p must be"),
        ("--repetition-penalty", "0", "repetition_penalty must be"),
        ("--seed", "x", "'--seed <N>': the seed must be a non-negative integer, or -1"),
        ("--seed", "-2", "'--seed <N>': the seed must be a non-negative integer, or -1"),
        ("--top-k", "-2", "'--top-k <N>': must be a number of tokens"),
        ("--stop", "", "--stop must not be empty"),
    ];
    for (flag, value, complaint) in table {
        assert_refused(&output(["run", "--model", "x", "--prompt", "5", flag, value]), 2, &[complaint]);
    }
}

#[test]
fn unsupported_settings_are_rejected() {
    let run = |flag, value| output(["run", "--model", "x", "--prompt", "5", flag, value]);
    assert_refused(&run("--kv-quant", "3"), 2, &["--kv-quant must be 0, 4, 8 or 16, found 3"]);
    assert_refused(&run("--max-kv-size", "250"), 2, &["--max-kv-size must be at least 640", "found 250"]);
    assert_refused(&run("--kv-evict", "oldest"), 2, &["--kv-max-bytes"]);
    assert_refused(&run("--kv-keep", "5"), 2, &["--kv-keep has no effect without --max-kv-size"]);
    assert_refused(&run("--threads", "0"), 2, &["--threads must be from 1 to 256, found 0"]);
    let chat = output(["chat", "--model", "x", "--max-tokens", "0"]);
    assert_refused(&chat, 2, &["--max-tokens must be at least 1 in a chat"]);
    let ctx = output(["perplexity", "--model", "x", "--file", "y", "--ctx", "1"]);
    assert_refused(&ctx, 2, &["--ctx must be at least 2, found 1"]);
    let bits = output(["convert", "--gguf", "x", "--out", "y", "--quantize", "7"]);
    assert_refused(&bits, 2, &["--quantize 7", "7 bits"]);
}

#[test]
fn colors_need_a_terminal_or_clicolor_force() {
    let tiny = Tiny::new(1);
    let args = ["inspect", "--model", tiny.dir()];
    assert!(!stdout(&output(args)).contains('\x1b'));
    let forced = flash_cli(args).env("CLICOLOR_FORCE", "1").output().unwrap();
    assert!(stdout(&forced).contains('\x1b'));
    let plain = flash_cli(args).env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1").output().unwrap();
    assert!(!stdout(&plain).contains('\x1b'));
}

#[test]
fn errors_have_no_backtrace_even_if_the_environment_asks() {
    let output = flash_cli(["inspect", "--model", "/nowhere"]).env("RUST_BACKTRACE", "1").output().unwrap();
    assert_refused(&output, 1, &["/nowhere"]);
}
