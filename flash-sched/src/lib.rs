//! Scheduling for models larger than memory, as pure logic: no clock, no I/O, no tensor library.
//!
//! Time comes in as a [`Duration`](std::time::Duration) since any fixed start, so that every decision can be
//! replayed. The crate answers these questions:
//!
//! - [`plan`](mod@plan): which bundles of weights stay in memory, how many slots the others pass through, and what the
//!   smallest possible budget is;
//! - [`frontier`]: which of these choices is the fastest on a machine whose speeds are known, for every budget;
//! - [`predict`](mod@predict): how long a token takes with one of them;
//! - [`controller`]: how fast and how far ahead to read, learned while the model runs;
//! - [`bucket`]: how long the next read must wait so that reads keep to a rate;
//! - [`experts`]: which experts of a mixture stay in memory;
//! - [`lookahead`]: whether it pays to read experts that are only guessed;
//! - [`elastic`]: how much memory to have while other programs come and go;
//! - [`sim`]: how all of it does on a made-up machine;
//! - [`estimate`]: what a step usually costs, and how close a run came to the limit that the hardware sets.
//!
//! ```
//! use flash_sched::{PlanRequest, plan};
//!
//! // Four layers of 100 MB and 50 MB of everything else, in 400 MB: two slots, one layer pinned.
//! let request = PlanRequest { bundle_bytes: &[100; 4], fixed_bytes: 50, budget_bytes: 400, n_slots: 2 };
//! let plan = plan(&request).unwrap();
//! assert_eq!((plan.n_slots, plan.pinned_bytes, plan.streamed_bytes), (2, 100, 300));
//! assert_eq!(plan.floor_bytes, 250);
//! ```

pub mod bucket;
mod contention;
pub mod controller;
pub mod elastic;
pub mod estimate;
pub mod experts;
pub mod frontier;
pub mod lookahead;
pub mod plan;
pub mod predict;
mod rate;
pub mod sim;
mod spread;
pub mod trace;

pub use bucket::{Claim, TokenBucket};
pub use controller::{Controller, ControllerConfig, Decision, Estimates, Observation};
pub use elastic::{Elastic, Memory};
pub use estimate::{Ema, Limit};
pub use experts::{ExpertCache, Policy};
pub use frontier::{Frontier, TimedPlan};
pub use lookahead::Lookahead;
pub use plan::{BelowFloor, PlanRequest, ResidencyPlan, plan};
pub use predict::{Bound, Disk, Prediction, Speeds, predict};
pub use rate::{ByteRate, InvalidRate};
pub use trace::Trace;
