//! Contexts that outlive an engine: sessions and shared prefixes.

mod bench;
mod copies;
mod identity;
mod prefixes;
mod recovery;
mod saved;
mod state;
#[path = "../streaming/tiny.rs"]
#[expect(dead_code, reason = "other tests draw models of any form")]
mod tiny;
