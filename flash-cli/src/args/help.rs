//! Text below the help of commands.

pub(super) const AFTER_HELP: &str = "\
SIZE is a number of GiB (1.5), or a number with a unit (512MiB, 1.5GB; K, M, G and T mean KiB, MiB, GiB and TiB).
Exit status: 0 on success, 1 on failure, 2 on invalid usage, 128+N if signal N ended the program: 130 after Ctrl-C.";

pub(super) const PLAN_AFTER_HELP: &str = "\
SIZE is a number of GiB (1.5), or a number with a unit (512MiB, 1.5GB; K, M, G and T mean KiB, MiB, GiB and TiB).
RATE is a number of GB/s (7), or a number with a unit (500MB/s, 1.5GiB/s).
SPEED is the time per token (100ms, 0.1s), or the RATE at which weights are processed, with a unit (40GB/s).
Exit status: 0 on success, 1 on failure, 2 on invalid usage.";

pub(super) const PULL_AFTER_HELP: &str = "\
Interrupted downloads resume. Every --model also accepts an ID, and downloads the model if it is not in the cache.
The cache is shared with Hugging Face's tools, and so are the environment variables: HF_HOME, HF_HUB_CACHE, HF_TOKEN,
HF_TOKEN_PATH, HF_ENDPOINT, and HF_HUB_OFFLINE=1 or TRANSFORMERS_OFFLINE=1 to work offline.";
