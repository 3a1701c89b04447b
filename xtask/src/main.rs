//! Set-up, demo, tests and comparisons: `cargo xtask --help`.
fn main() {}
