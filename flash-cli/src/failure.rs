//! Reports errors: one line on standard error, and an exit status.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use flash_convert::ConvertError;
use flash_io::IoError;
use flash_kv::KvError;
use flash_model::ModelError;

use crate::hub::IdError;
use crate::interrupt;
use crate::modelfile::ModelfileError;
use crate::output;
use crate::usage::UsageError;

const FAILURE: u8 = 1;
const USAGE: u8 = 2;

/// Reports why a command failed, and returns its exit status.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        // The reader of the output, such as `head`, closed it on purpose.
        return ExitCode::SUCCESS;
    }
    if is_interrupted(error) {
        return ExitCode::from(interrupt::exit_code());
    }
    let mut sentence = sentence(error);
    if let Some(hint) = hint(error) {
        sentence.push_str(hint);
    }
    show(&sentence);
    ExitCode::from(if is_usage(error) { USAGE } else { FAILURE })
}

/// Reports invalid flags, or prints the requested help or version.
pub(crate) fn report_usage(error: &clap::Error) -> ExitCode {
    let is_help = matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    if is_help {
        // A closed pipe is no failure of the help.
        let _ = error.print();
        return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
    }
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or(&text);
    let mut sentence = one_line(first.strip_prefix("error: ").unwrap_or(first));
    for kind in [ContextKind::SuggestedArg, ContextKind::SuggestedValue, ContextKind::SuggestedSubcommand] {
        match error.get(kind) {
            Some(ContextValue::String(suggestion)) => {
                sentence.push_str(&format!("; did you mean '{suggestion}'?"));
            }
            Some(ContextValue::Strings(list)) if !list.is_empty() => {
                sentence.push_str(&format!("; did you mean '{}'?", list.join("' or '")));
            }
            _ => {}
        }
    }
    show(&sentence);
    ExitCode::from(USAGE)
}

fn show(sentence: &str) {
    let red = Style::new().fg_color(Some(AnsiColor::Red.into())).bold();
    output::note(&format!("{red}error:{red:#} {sentence}"));
}

/// Formats an error with its causes, except those whose text it already contains.
fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for part in error.chain().map(ToString::to_string) {
        if sentence.is_empty() {
            sentence = part;
        } else if !sentence.contains(&part) {
            sentence.push_str(": ");
            sentence.push_str(&part);
        }
    }
    one_line(&sentence)
}

fn one_line(text: &str) -> String {
    text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Returns the flag or command that resolves an error, to append to its message.
fn hint(error: &anyhow::Error) -> Option<&'static str> {
    match find::<KvError>(error) {
        Some(KvError::ModelMismatch { .. } | KvError::VersionMismatch { .. }) => {
            return Some("; use another --session, or remove this one with flash-cli kv rm");
        }
        Some(KvError::ModelsSyntax { .. } | KvError::ModelsVersion { .. }) => {
            return Some("; use another --kv-dir, or remove this one");
        }
        _ => {}
    }
    match find::<IoError>(error)? {
        IoError::DirectUnsupported { .. } | IoError::DirectAlignment { .. } => Some(" (use --io pread)"),
        IoError::UringUnsupported { .. } => Some(" (use --io direct)"),
        _ => None,
    }
}

fn is_usage(error: &anyhow::Error) -> bool {
    match find::<ModelfileError>(error) {
        Some(error) => !matches!(error, ModelfileError::Read { .. }),
        None => {
            find::<UsageError>(error).is_some()
                || find::<IdError>(error).is_some()
                || matches!(find::<KvError>(error), Some(KvError::SessionName { .. }))
        }
    }
}

fn is_interrupted(error: &anyhow::Error) -> bool {
    matches!(find::<ModelError>(error), Some(ModelError::Interrupted))
        || matches!(find::<ConvertError>(error), Some(ConvertError::Interrupted { .. }))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    find::<io::Error>(error).is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Returns the first error of type `E` in the chain of causes.
///
/// [`ModelError::Io`] and [`ModelError::Kv`] are transparent, so their inner errors are not in the chain and are
/// checked separately.
fn find<E: Error + 'static>(error: &anyhow::Error) -> Option<&E> {
    error.chain().find_map(|cause| {
        let inner = match cause.downcast_ref() {
            Some(ModelError::Io(inner)) => (inner as &dyn Error).downcast_ref(),
            Some(ModelError::Kv(inner)) => (inner as &dyn Error).downcast_ref(),
            _ => None,
        };
        inner.or_else(|| cause.downcast_ref())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unsupported() -> IoError {
        let alternative = flash_io::IoMode::Pread;
        IoError::DirectUnsupported { path: "a.safetensors".into(), alternative }
    }

    #[test]
    fn causes_are_appended_unless_already_quoted() {
        let cause = || io::Error::other("no disk");
        let quoted = anyhow::Error::from(ModelError::File { path: "a".into(), error: cause() });
        assert_eq!(sentence(&quoted), "a: no disk");
        assert_eq!(sentence(&quoted.context("a: no disk, as always")), "a: no disk, as always");
        assert_eq!(sentence(&anyhow::Error::from(cause()).context("a")), "a: no disk");
    }

    #[test]
    fn unsupported_direct_reads_name_the_alternative_flag() {
        for error in [unsupported().into(), anyhow::Error::from(ModelError::from(unsupported()))] {
            assert_eq!(hint(&error), Some(" (use --io pread)"), "{error:?}");
        }
        assert_eq!(hint(&ModelError::EmptyPrompt.into()), None);
    }

    #[test]
    fn a_session_of_another_model_names_the_command_that_removes_it() {
        let (wanted, got) = (flash_kv::Digest([1; 32]), flash_kv::Digest([2; 32]));
        for error in [
            KvError::ModelMismatch { path: "pages.kv".into(), wanted, got },
            KvError::VersionMismatch { path: "pages.kv".into(), got: 3 },
        ] {
            let error = ModelError::from(error).into();
            assert!(hint(&error).is_some_and(|hint| hint.contains("flash-cli kv rm")), "{error:?}");
        }
    }

    #[test]
    fn messages_are_joined_into_one_line() {
        assert_eq!(one_line("these:\n  --a\n\n  --b\n"), "these: --a --b");
    }
}
