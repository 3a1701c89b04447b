//! Scheduling for models larger than memory as pure logic: no clock, no I/O, no tensor library.
//!
//! The weights of a model are read in *bundles*, which are loaded together: a layer, say. A *pinned* bundle stays in
//! memory; the others are *streamed*: read for each token, into one of a few *slots*. Which are pinned, and the number
//! of slots, is the *residency*. The smallest budget that has a plan is the *floor*.
//!
//! Callers pass the time as a [`Duration`](std::time::Duration) since any fixed start, so every decision can be
//! replayed. Sizes are in bytes, rates are a [`ByteRate`]. The modules:
//!
//! - [`plan`](mod@plan): residency from sizes alone: which bundles are pinned, for a given number of slots, and the
//!   floor;
//! - [`frontier`]: the fastest residency for every budget, on a machine of known speed;
//! - [`predict`](mod@predict): the predicted time per token of a residency;
//! - [`controller`]: read rate and prefetch depth, adapted while the model runs;
//! - [`bucket`]: a token bucket that limits the read rate;
//! - [`experts`]: cache policies for the experts of a mixture-of-experts layer;
//! - [`lookahead`]: whether reading predicted experts ahead pays off;
//! - [`rows`]: how many rows a pass carries, and for whom;
//! - [`drafts`]: how many guessed tokens a pass carries, from how many were right;
//! - [`elastic`]: a memory budget that shrinks and grows with the needs of other programs;
//! - [`sim`]: a discrete-event simulation of disk, processor and controller, and [`trace`], its result as text;
//! - [`estimate`]: moving averages of step times, and the speed limit set by the hardware.
//!
//! A program plans once ([`Frontier::plan`], or [`plan`](plan())), then calls [`Controller::step`] after each bundle
//! and [`TokenBucket::reserve`] before each read.
//!
//! ```
//! use flash_sched::{PlanRequest, plan};
//!
//! // Four layers of 100 bytes and 50 bytes of everything else, in 400 bytes: two slots, one layer pinned.
//! let request = PlanRequest { bundle_bytes: &[100; 4], fixed_bytes: 50, budget_bytes: 400, n_slots: 2 };
//! let plan = plan(&request).unwrap();
//! assert_eq!((plan.n_slots, plan.pinned_bytes, plan.streamed_bytes), (2, 100, 300));
//! assert_eq!(plan.floor_bytes, 250);
//! ```

pub mod bucket;
mod contention;
pub mod controller;
pub mod drafts;
pub mod elastic;
pub mod estimate;
pub mod experts;
pub mod frontier;
pub mod lookahead;
pub mod plan;
pub mod predict;
mod rate;
pub mod rows;
pub mod sim;
mod spread;
pub mod trace;

pub use bucket::{Reservation, TokenBucket};
pub use controller::{Controller, ControllerConfig, Decision, Estimates, Observation};
pub use drafts::{Acceptance, DraftControl, DraftLength, PassTime};
pub use elastic::{ElasticBudget, Memory};
pub use estimate::{Ema, Limit};
pub use experts::{ExpertCache, Policy};
pub use frontier::{Frontier, TimedPlan};
pub use lookahead::LookaheadTrial;
pub use plan::{BelowFloor, PlanRequest, ResidencyPlan, plan};
pub use predict::{Bound, Disk, Prediction, Speeds, predict};
pub use rate::{ByteRate, InvalidRate};
pub use rows::{ExpertReads, PassCost, PassEstimate, PassLimits};
pub use trace::Trace;
