//! Reads lines from a pipe or a file. A signal interrupts the wait for a line.

use std::fs::File;
use std::io::{self, Read, Stdin};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::interrupt::SignalGuard;

const PIECE_BYTES: usize = 16 << 10;

/// Standard input, split into lines.
#[derive(Debug)]
pub(crate) struct Plain {
    input: File,
    /// Becomes readable when a signal is received.
    wake: UnixStream,
    buffer: Buffer,
}

impl Plain {
    pub(super) fn new(stdin: &Stdin, guard: &SignalGuard<'_>) -> io::Result<Self> {
        let input = stdin.as_fd().try_clone_to_owned()?.into();
        Ok(Self { input, wake: guard.wake_stream(&[SIGINT, SIGTERM, SIGHUP])?, buffer: Buffer::default() })
    }

    pub(super) fn next(&mut self, guard: &SignalGuard<'_>) -> io::Result<Option<Line>> {
        let mut piece = [0; PIECE_BYTES];
        loop {
            if guard.is_stopped() {
                return Ok(None);
            }
            if let Some(line) = self.buffer.line() {
                return Ok(Some(line));
            }
            let mut fds = [PollFd::new(&self.input, PollFlags::IN), PollFd::new(&self.wake, PollFlags::IN)];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                polled => polled?,
            };
            if fds[0].revents().is_empty() {
                // Drains the byte of a signal that was cleared, so that the pipe cannot fill up.
                let _ = (&self.wake).read(&mut piece)?;
                continue;
            }
            match self.input.read(&mut piece) {
                Ok(0) => return Ok(self.buffer.rest()),
                Ok(n_bytes) => self.buffer.push(&piece[..n_bytes]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Input bytes that are not yet returned as lines.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// Number of bytes known to contain no line end.
    searched: usize,
}

impl Buffer {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the first line, if it is complete.
    fn line(&mut self) -> Option<Line> {
        let Some(end) = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.bytes.len();
            return None;
        };
        let rest = self.bytes.split_off(self.searched + end + 1);
        let line = std::mem::replace(&mut self.bytes, rest);
        self.searched = 0;
        Some(Line::of(line))
    }

    /// Takes the bytes after the last line end, if there are any.
    fn rest(&mut self) -> Option<Line> {
        let line = std::mem::take(self).bytes;
        (!line.is_empty()).then(|| Line::of(line))
    }
}

/// An input line, without its line end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Text(String),
    /// A line that is not UTF-8.
    NotText {
        /// Offset of the first invalid byte.
        at: usize,
    },
}

impl Line {
    fn of(mut bytes: Vec<u8>) -> Self {
        let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
        let end = bytes.iter().rposition(|byte| !is_end(byte)).map_or(0, |last| last + 1);
        bytes.truncate(end);
        match String::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(error) => Self::NotText { at: error.utf8_error().valid_up_to() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_do_not_depend_on_how_the_input_is_split() {
        let all = b"one\r\n\ntw\xc3\xb6\n\xff\nrest";
        let text = |text: &str| Line::Text(text.to_owned());
        let expected = [text("one"), text(""), text("tw\u{f6}"), Line::NotText { at: 0 }, text("rest")];
        for n_bytes in 1..=all.len() {
            let (mut buffer, mut lines) = (Buffer::default(), Vec::new());
            for piece in all.chunks(n_bytes) {
                buffer.push(piece);
                lines.extend(std::iter::from_fn(|| buffer.line()));
            }
            lines.extend(buffer.rest());
            assert_eq!(lines, expected, "pieces of {n_bytes}");
        }
    }
}
