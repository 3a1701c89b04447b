//! `perplexity`, on a small synthetic model.

use crate::support::tiny::{Tiny, shard, tensors};
use crate::support::{assert_refused, flash_cli, floor_mib, json, output, stdout};

fn text(n_words: usize) -> String {
    (0..n_words).map(|word| format!("{} ", 4 + word * 7 % 60)).collect()
}

#[test]
fn loss_is_the_same_for_every_budget_and_printed_in_full() {
    let tiny = Tiny::new(160);
    tiny.write("text", text(40).as_bytes());
    let file = tiny.path("text");
    let args = ["perplexity", "--model", tiny.dir(), "--ctx", "16", "--file", file.to_str().unwrap()];
    let floor = format!("{}MiB", floor_mib(args) + 1);
    let whole = json(&flash_cli(args).arg("--json").output().unwrap());
    let streamed = json(&flash_cli(args).args(["--json", "--ram", &floor]).output().unwrap());
    assert_eq!(whole["loss"].as_f64().map(f64::to_bits), streamed["loss"].as_f64().map(f64::to_bits));
    assert_eq!(whole["streamed_bytes"], 0);
    assert!(streamed["streamed_bytes"].as_u64() > Some(0));

    let loss = whole["loss"].as_f64().unwrap();
    assert_eq!(whole["perplexity"].as_f64(), Some(loss.exp()));
    let plain = output(args);
    assert!(stdout(&plain).contains(&format!("loss       {loss}\n")), "{}", stdout(&plain));
}

#[test]
fn every_token_but_the_first_of_a_window_is_predicted() {
    let tiny = Tiny::new(1);
    // Windows of 16, 16 and 1 tokens: the last one predicts nothing.
    tiny.write("text", text(33).as_bytes());
    let file = tiny.path("text");
    let args =
        ["perplexity", "--model", tiny.dir(), "--ctx", "16", "--json", "--file", file.to_str().unwrap()];
    assert_eq!(json(&output(args))["n_tokens"], 30);
}

#[test]
fn a_loss_that_is_not_a_number_is_an_error() {
    let tiny = Tiny::new(2);
    let mut tensors = tensors(2);
    tensors.last_mut().unwrap().data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    tiny.write("model.safetensors", &shard(&tensors));
    tiny.write("text", text(20).as_bytes());
    let file = tiny.path("text");
    let args = ["perplexity", "--model", tiny.dir(), "--ctx", "16", "--file", file.to_str().unwrap()];
    for more in [&[][..], &["--json"]] {
        let refused = output([&args[..], more].concat());
        assert_refused(&refused, 1, &["the loss of token", "at position 1 is not a number"]);
    }
}

#[test]
fn texts_and_windows_that_cannot_be_measured_are_refused() {
    let tiny = Tiny::new(1);
    tiny.write("short", b"5");
    tiny.write("long", text(20).as_bytes());
    tiny.write("binary", b"5 6 \xff");
    let run = |name: &str, ctx| {
        output([
            "perplexity",
            "--model",
            tiny.dir(),
            "--ctx",
            ctx,
            "--file",
            tiny.path(name).to_str().unwrap(),
        ])
    };
    assert_refused(&run("short", "16"), 1, &["short: 1 tokens, at least 2"]);
    assert_refused(&run("binary", "16"), 1, &["binary: not UTF-8 text: invalid byte 0xff at offset 4"]);
    assert_refused(&run("gone", "16"), 1, &["gone: No such file or directory"]);
    // A window may be longer than the text, and than what the model was trained for.
    assert!(run("long", "4096").status.success());
}
