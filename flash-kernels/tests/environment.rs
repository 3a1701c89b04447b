//! What `FLASH_KERNELS` does. A process reads its environment while others of its threads may, so each value gets a
//! process of its own: this one again, with one test.

use std::env;
use std::num::NonZeroUsize;
use std::process::{Command, Output};

use flash_kernels::{Isa, KernelError, Pool};

const ENV: &str = "FLASH_KERNELS";

/// Runs the test below with another value of the variable, or without it.
fn honoured_with(value: Option<&str>) -> Output {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "the_environment_of_this_process_is_honoured"]);
    match value {
        Some(value) => command.env(ENV, value),
        None => command.env_remove(ENV),
    };
    command.output().unwrap()
}

#[test]
fn the_environment_of_this_process_is_honoured() {
    let wanted = env::var(ENV).unwrap_or_default();
    let available = Isa::available();
    match Pool::new(NonZeroUsize::MIN) {
        Ok(pool) if wanted.is_empty() => assert_eq!(pool.isa(), *available.last().unwrap()),
        Ok(pool) => assert_eq!(pool.isa().name(), wanted),
        Err(KernelError::Isa { wanted: refused, available: names }) => {
            assert_eq!(refused, wanted);
            assert!(available.iter().all(|isa| isa.name() != wanted));
            assert_eq!(names, available.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", "));
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn every_value_of_the_environment_is_honoured() {
    let names = Isa::available().iter().map(|isa| Some(isa.name()));
    for value in names.chain([None, Some(""), Some("avx1024"), Some("Portable")]) {
        let output = honoured_with(value);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && stdout.contains("1 passed"), "{value:?}: {stdout}");
    }
}
