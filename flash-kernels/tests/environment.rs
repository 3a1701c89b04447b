//! The library does not read the environment. Changing variables while other threads may read them is unsafe, so the
//! test sets them for a child process that runs this one test.

use std::env;
use std::process::Command;

use flash_kernels::{Isa, Pool};

/// Set in the child process.
const IN_CHILD: &str = "FLASH_KERNELS_TEST_CHILD";

#[test]
fn the_environment_chooses_no_instruction_set() {
    if env::var_os(IN_CHILD).is_some() {
        assert_eq!(Pool::for_machine(Isa::best()).unwrap().isa(), *Isa::available().last().unwrap());
        return;
    }
    for value in ["portable", "avx1024", ""] {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "the_environment_chooses_no_instruction_set"]);
        let output = command.env(IN_CHILD, "1").env("FLASH_KERNELS", value).output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && stdout.contains("1 passed"), "{value:?}: {stdout}");
    }
}
