//! Lines from a pipe or a file. Waiting for one ends when a signal comes.

use std::fs::File;
use std::io::{self, Read, Stdin};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::Line;
use crate::interrupt::Caught;

const PIECE_BYTES: usize = 16 << 10;

#[derive(Debug)]
pub(in crate::cmd::chat) struct Plain {
    input: File,
    /// Can be read from when a signal has come.
    wake: UnixStream,
    buffer: Buffer,
}

impl Plain {
    pub(super) fn new(stdin: &Stdin, caught: &Caught<'_>) -> io::Result<Self> {
        let input = stdin.as_fd().try_clone_to_owned()?.into();
        Ok(Self { input, wake: caught.wake_by(&[SIGINT, SIGTERM, SIGHUP])?, buffer: Buffer::default() })
    }

    pub(super) fn next(&mut self, caught: &Caught<'_>) -> io::Result<Option<Line>> {
        let mut piece = [0; PIECE_BYTES];
        loop {
            if caught.is_stopped() {
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
                // A signal that was forgotten has left its byte: the next one must find room.
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

/// Bytes that have come and are not taken.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// The first of them that may end a line.
    searched: usize,
}

impl Buffer {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The first line, if all of it has come.
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

    /// Takes the bytes behind the last line end, if there are any.
    fn rest(&mut self) -> Option<Line> {
        let line = std::mem::take(self).bytes;
        (!line.is_empty()).then(|| Line::of(line))
    }
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
    fn lines_are_the_same_however_they_come_in_pieces() {
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
