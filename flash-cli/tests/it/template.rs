//! Flags of the chat template, and the sampling defaults of a model in a chat.

use serde_json::json;

use crate::support::tiny::Tiny;
use crate::support::{assert_refused, flash_cli, output, stderr, stdout};

/// Runs `run` with these arguments, and returns the text.
#[track_caller]
fn run(tiny: &Tiny, args: &[&str]) -> String {
    let output = output([&["run", "-m", tiny.dir(), "--max-tokens", "5"], args].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output).trim_end().to_owned()
}

/// A model whose template ends with 7 if it shall think, with 8 if not, and with 9 if nobody says.
fn thinking() -> Tiny {
    let tiny = Tiny::new(2);
    let template = "{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}\
                    {% if enable_thinking is defined %}{{ 7 if enable_thinking else 8 }}{% else %}9{% endif %} \
                    {{ tone | default('') }}";
    tiny.write("chat_template.jinja", template.as_bytes());
    tiny
}

#[test]
fn system_prompt_of_run_comes_before_the_question() {
    let tiny = Tiny::new(2);
    let expected = run(&tiny, &["-p", "system 9 9 user 5 assistant"]);
    assert_eq!(run(&tiny, &["--chat", "--system", "9 9", "-p", "5"]), expected);
}

#[test]
fn thinking_is_a_variable_of_the_template() {
    let tiny = thinking();
    for (flags, end) in [
        (&[][..], "9"),
        (&["--think"], "7"),
        (&["--no-think"], "8"),
        (&["--think", "--no-think"], "8"),
        (&["--chat-template-kwargs", r#"{"enable_thinking": true}"#], "7"),
        (&["--chat-template-kwargs", r#"{"tone": "3 4"}"#], "9 3 4"),
    ] {
        let expected = run(&tiny, &["-p", &format!("user 5 {end}")]);
        assert_eq!(run(&tiny, &[&["--chat", "-p", "5"], flags].concat()), expected, "{flags:?}");
    }
}

#[test]
fn settings_without_effect_are_refused() {
    let tiny = Tiny::new(1);
    let refused = |args: &[&str], code: i32, parts: &[&str]| {
        let args = [&["run", "--model", tiny.dir(), "--max-tokens", "1", "-p", "5"], args].concat();
        assert_refused(&output(args), code, parts);
    };
    refused(&["--chat", "--no-think"], 2, &["the chat template has no variable \"enable_thinking\""]);
    refused(&["--chat", "--chat-template-kwargs", r#"{"tone": 1}"#], 2, &["has no variable \"tone\""]);
    refused(&["--system", "9"], 2, &["--system needs --chat"]);
    refused(&["--think"], 2, &["--think", "needs --chat"]);
    refused(
        &["--chat", "--chat-template-kwargs", "[1]"],
        2,
        &["--chat-template-kwargs", "not a JSON object"],
    );
    let twice = ["--chat", "--think", "--chat-template-kwargs", r#"{"enable_thinking": true}"#];
    refused(&twice, 2, &["--think and --no-think set enable_thinking"]);
}

#[test]
fn a_chat_samples_as_the_model_says_and_plain_text_does_not() {
    let tiny = Tiny::new(2);
    let greedy = run(&tiny, &["-p", "user 5 assistant"]);
    tiny.write_json("generation_config.json", &json!({ "do_sample": true, "temperature": 3.0, "top_k": 40 }));
    let flags = ["--temp", "3", "--top-k", "40", "--seed", "11"];
    let sampled = run(&tiny, &[&["-p", "user 5 assistant"], &flags[..]].concat());
    assert_ne!(sampled, greedy);
    assert_eq!(run(&tiny, &["--chat", "-p", "5", "--seed", "11"]), sampled);
    assert_eq!(run(&tiny, &["--chat", "-p", "5", "--temp", "0"]), greedy, "flags override the model");
    assert_eq!(run(&tiny, &["-p", "user 5 assistant", "--seed", "11"]), greedy);
}

#[test]
fn unsupported_sampling_settings_of_a_model_are_named() {
    let tiny = Tiny::new(1);
    tiny.write_json("generation_config.json", &json!({ "typical_p": 0.9, "num_beams": 1 }));
    let output = output(["run", "--model", tiny.dir(), "--max-tokens", "1", "--chat", "-p", "5"]);
    assert!(output.status.success());
    assert!(stderr(&output).contains("not supported, and ignored: typical_p\n"), "{}", stderr(&output));
}

#[test]
fn a_dash_reads_the_prompt_from_standard_input() {
    let tiny = Tiny::new(1);
    let mut command = flash_cli(["run", "--model", tiny.dir(), "--max-tokens", "5", "--prompt-file", "-"]);
    let output = command.write_stdin("5 6").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output).trim_end(), run(&tiny, &["-p", "5 6"]));
}

#[test]
fn exit_ends_a_conversation_before_the_lines_after_it() {
    let tiny = Tiny::new(1);
    for command in ["/exit", "/quit"] {
        let mut chat = flash_cli(["chat", "--model", tiny.dir(), "--max-tokens", "5"]);
        let output = chat.write_stdin(format!("5\n{command}\n6\n")).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stdout(&output).lines().count(), 1);
    }
}
