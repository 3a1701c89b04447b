use std::num::NonZeroUsize;
use std::thread;

/// Physical cores this process may use: as many as the standard library counts (affinity and CPU quota of the
/// control group honoured), but one for the threads that share a core.
pub(super) fn usable() -> NonZeroUsize {
    let logical = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    physical().map_or(logical, |physical| logical.min(physical))
}

/// Cores of the machine, where it says which of its CPUs are threads of one core.
#[cfg(target_os = "linux")]
fn physical() -> Option<NonZeroUsize> {
    let cpus = std::fs::read_dir("/sys/devices/system/cpu").ok()?;
    let cores: std::collections::HashSet<String> = cpus
        .flatten()
        .filter_map(|cpu| std::fs::read_to_string(cpu.path().join("topology/thread_siblings_list")).ok())
        .collect();
    NonZeroUsize::new(cores.len())
}

/// Apple's processors run one thread a core.
#[cfg(not(target_os = "linux"))]
fn physical() -> Option<NonZeroUsize> {
    None
}
