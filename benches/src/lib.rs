//! Criterion suites over the library crates; see `benches/`.
