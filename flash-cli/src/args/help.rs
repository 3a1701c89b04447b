//! Text below the help of commands, in lines of at most 100 columns.

pub(super) const AFTER_HELP: &str = "\
SIZE is a number of GiB (1.5), or a number with a unit (512MiB, 1.5GB, 2G); K to T mean KiB to TiB.
Exit status: 0 on success, 1 on failure, 2 on invalid usage, 128+N on signal N (130 after Ctrl-C).";

pub(super) const PLAN_AFTER_HELP: &str = "\
SIZE is a number of GiB (1.5), or a number with a unit (512MiB, 1.5GB, 2G); K to T mean KiB to TiB.
RATE is a number of GB/s (7), or a number with a unit (500MB/s, 1.5GiB/s).
SPEED is the time per token (100ms, 0.1s), or the rate at which weights are processed (40GB/s).
Exit status: 0 on success, 1 on failure, 2 on invalid usage.";

pub(super) const PULL_AFTER_HELP: &str = "\
Interrupted downloads resume. Every --model also accepts an ID, and downloads missing models.
The cache is shared with Hugging Face's tools, and so are these environment variables: HF_HOME,
HF_HUB_CACHE, HF_TOKEN, HF_TOKEN_PATH, HF_ENDPOINT, and HF_HUB_OFFLINE=1 or
TRANSFORMERS_OFFLINE=1 to work offline.";
