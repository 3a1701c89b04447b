//! Signals that end the program, and closed output pipes.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::tiny::Tiny;
use crate::support::{json, output};

/// Returns the program with default signal dispositions, even if the test runner ignores some.
fn program() -> Command {
    let path = env!("CARGO_BIN_EXE_flash-cli");
    if cfg!(target_os = "linux") {
        let mut command = Command::new("env");
        command.arg("--default-signal=HUP,INT,TERM").arg(path);
        return command;
    }
    Command::new(path)
}

/// Starts a run of many tokens, and reads the first byte of its text.
fn long_run(tiny: &Tiny, args: &[&str]) -> (Child, BufReader<std::process::ChildStdout>, u8) {
    let mut child = program()
        .args(["run", "--model", tiny.dir(), "--prompt", "5", "--max-tokens", "2000", "--ignore-eos"])
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut first = [0];
    stdout.read_exact(&mut first).unwrap();
    (child, stdout, first[0])
}

/// Signals, with the exit status of the program after each.
const SIGNALS: [(&str, i32); 3] = [("-INT", 130), ("-TERM", 143), ("-HUP", 129)];

fn kill(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

/// Returns the report of a session, and the standard error of a chat that resumes it.
fn shown(tiny: &Tiny, kv_dir: &str) -> (Value, String) {
    let shown = json(&output(["kv", "show", "a", "--kv-dir", kv_dir, "--json"]));
    let chat = output(["chat", "--model", tiny.dir(), "--session", "a", "--kv-dir", kv_dir]);
    (shown, String::from_utf8(chat.stderr).unwrap())
}

#[test]
fn a_signal_ends_the_text_with_a_line_end_and_its_exit_status() {
    for (signal, status) in SIGNALS {
        let tiny = Tiny::new(160);
        let (child, mut stdout, _) = long_run(&tiny, &[]);
        kill(&child, signal);
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{signal}");
        assert_eq!(rest.matches('\n').count(), 1, "{rest:?}");
        assert!(rest.ends_with('\n') && rest.split(' ').count() < 2000, "{rest:?}");
        assert_eq!(output.stderr, b"", "{signal}");
    }
}

#[test]
fn a_signal_saves_the_session_of_a_run() {
    for (signal, status) in SIGNALS {
        let tiny = Tiny::new(160);
        let kv_dir = tiny.path("kv").to_str().unwrap().to_owned();
        let (child, mut stdout, first) = long_run(&tiny, &["--session", "a", "--kv-dir", &kv_dir]);
        kill(&child, signal);
        let mut text = vec![first];
        stdout.read_to_end(&mut text).unwrap();
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(status), "{signal}");
        let n_words = String::from_utf8(text).unwrap().split_whitespace().count();
        let kept = json(&output(["kv", "show", "a", "--kv-dir", &kv_dir, "--json"]));
        // The prompt and all words but the last, which was not passed through the model.
        assert_eq!(kept["tokens"].as_u64(), Some(n_words as u64), "{signal}: {kept}");
        let args = ["--session", "a", "--kv-dir", &kv_dir, "--prompt", "7", "--max-tokens", "1", "--json"];
        let resumed = output([&["run", "--model", tiny.dir()], &args[..]].concat());
        assert_eq!((resumed.status.code(), resumed.stderr), (Some(0), Vec::new()), "it was saved at its end");
    }
}

#[test]
fn a_signal_saves_a_conversation_that_waits_for_a_line() {
    for (signal, status) in SIGNALS {
        let tiny = Tiny::new(2);
        let kv_dir = tiny.path("kv").to_str().unwrap().to_owned();
        let mut child = program()
            .args(["chat", "--model", tiny.dir(), "--session", "a", "--kv-dir", &kv_dir, "--max-tokens", "5"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // The second line is incomplete.
        stdin.write_all(b"5 6\n7").unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut String::new()).unwrap();
        kill(&child, signal);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{signal}");
        drop(stdin);
        let (kept, said) = shown(&tiny, &kv_dir);
        assert_eq!((&kept["messages"], said.as_str()), (&2.into(), ""), "{signal}: it was saved at its end");
    }
}

#[test]
fn sigterm_ends_a_conversation_in_the_middle_of_an_answer_and_ctrl_c_only_the_answer() {
    for (signal, status) in [("-TERM", 143), ("-INT", 0)] {
        let tiny = Tiny::new(160);
        // No word ends an answer.
        tiny.set_config("eos_token_id", Value::Null);
        let kv_dir = tiny.path("kv").to_str().unwrap().to_owned();
        let mut child = program()
            .args(["chat", "--model", tiny.dir(), "--session", "a", "--kv-dir", &kv_dir, "--ctx", "2000"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"5 6\n").unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut first = [0];
        stdout.read_exact(&mut first).unwrap();
        kill(&child, signal);
        let mut answer = String::new();
        stdout.read_line(&mut answer).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr), (Some(status), Vec::new()), "{signal}");
        assert!(answer.split(' ').count() < 1000, "{answer}");
        let (kept, said) = shown(&tiny, &kv_dir);
        assert_eq!((&kept["messages"], said.as_str()), (&2.into(), ""), "{signal}: it was saved at its end");
    }
}

/// Waits until `condition` holds, and fails with `message` after a minute.
#[cfg(target_os = "linux")]
fn wait_until(message: &str, mut condition: impl FnMut() -> bool) {
    use std::thread;
    use std::time::{Duration, Instant};

    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{message}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A program blocked on a full pipe cannot react to the first signal.
#[cfg(target_os = "linux")]
#[test]
fn a_second_signal_ends_the_program_at_once() {
    let tiny = Tiny::new(1);
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let pipe_bytes = rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap() as u64;
    let mut child = program()
        .args(["run", "--model", tiny.dir(), "--prompt", "5", "--max-tokens", "2040", "--ignore-eos"])
        .stdout(writer)
        .spawn()
        .unwrap();
    // The free rest of the pipe may be shorter than a word.
    wait_until("the pipe is not full", || rustix::io::ioctl_fionread(&reader).unwrap() + 8 > pipe_bytes);
    // Two different signals, because two equal ones may be merged.
    kill(&child, "-INT");
    kill(&child, "-TERM");
    wait_until("the program does not end", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

/// On a terminal, a line editor reads the input.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_saves_a_conversation_on_a_terminal() {
    use std::fs::File;
    use std::os::unix::fs::OpenOptionsExt;

    use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};

    for (signal, status) in [("-TERM", 143), ("-HUP", 129)] {
        let tiny = Tiny::new(2);
        // No word ends an answer.
        tiny.set_config("eos_token_id", Value::Null);
        let kv_dir = tiny.path("kv").to_str().unwrap().to_owned();
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave =
            || File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(&name).unwrap();
        let mut child = program()
            .args(["chat", "--model", tiny.dir(), "--session", "a", "--kv-dir", &kv_dir, "--max-tokens", "5"])
            .env("TERM", "xterm")
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .unwrap();
        let mut terminal = File::from(master);
        let mut screen = String::new();
        for (awaited, keys) in [("> ", "5 6\r"), ("The answer was cut", "")] {
            while !screen.contains(awaited) {
                let mut piece = [0; 256];
                let n_bytes = terminal.read(&mut piece).unwrap();
                screen.push_str(&String::from_utf8_lossy(&piece[..n_bytes]));
            }
            terminal.write_all(keys.as_bytes()).unwrap();
        }
        kill(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(status), "{signal}");
        let (kept, said) = shown(&tiny, &kv_dir);
        assert_eq!((&kept["messages"], said.as_str()), (&2.into(), ""), "{signal}: it was saved at its end");
    }
}

#[test]
fn a_hangup_that_is_ignored_stays_ignored() {
    let tiny = Tiny::new(160);
    let mut child = Command::new("sh")
        .args([
            "-c",
            "trap '' HUP; exec \"$0\" \"$@\"",
            env!("CARGO_BIN_EXE_flash-cli"),
            "run",
            "--model",
            tiny.dir(),
        ])
        .args(["--prompt", "5", "--max-tokens", "100", "--ignore-eos"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut text = vec![0];
    stdout.read_exact(&mut text).unwrap();
    kill(&child, "-HUP");
    stdout.read_to_end(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(String::from_utf8(text).unwrap().split_whitespace().count(), 100, "as under nohup");
}

#[test]
fn a_closed_pipe_ends_the_run_quietly() {
    let tiny = Tiny::new(160);
    let (child, stdout, _) = long_run(&tiny, &[]);
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}
