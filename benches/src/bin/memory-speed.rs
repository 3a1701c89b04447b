//! Prints how fast memory is read, in bytes per second: `memory-speed THREADS`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::num::NonZeroUsize;
use std::process::ExitCode;

use flash_benches::MemoryReader;

fn main() -> ExitCode {
    let threads = std::env::args().nth(1).and_then(|threads| threads.parse::<NonZeroUsize>().ok());
    let Some(threads) = threads else {
        eprintln!("usage: memory-speed THREADS");
        return ExitCode::from(2);
    };
    match MemoryReader::new() {
        Ok(reader) => {
            println!("{}", reader.bytes_per_s(threads));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("no memory to read: {error}");
            ExitCode::FAILURE
        }
    }
}
