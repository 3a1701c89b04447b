//! The memory of the process and of the machine.

pub(crate) mod allowance;
#[cfg(target_os = "linux")]
mod cgroup;
#[cfg(target_os = "macos")]
mod macos;
mod pressure;
pub(crate) mod slots;
#[cfg(any(target_os = "macos", test))]
mod unified;

use sysinfo::System;

pub use allowance::Allowance;
#[cfg(target_os = "macos")]
use macos as platform;
pub use pressure::PressureGauge;

/// Resident set size of the process; on macOS its physical footprint, which counts compressed memory and that of the GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resident {
    /// Current size.
    pub now_bytes: u64,
    /// Peak size.
    pub peak_bytes: u64,
}

/// Returns the resident set size of the process, if the system reports it.
pub fn resident() -> Option<Resident> {
    platform::resident()
}

/// Makes the present size the peak, where the system can: on Linux. Elsewhere the peak stays that of the process's life.
pub fn reset_peak() {
    #[cfg(target_os = "linux")]
    if let Err(error) = std::fs::write("/proc/self/clear_refs", "5") {
        tracing::debug!(%error, "the peak of the resident set stays");
    }
}

/// Returns the memory that the process could still allocate: the free memory of the machine or of its control group,
/// whichever is less. On macOS, process and GPU together stay below the GPU's recommended working set.
pub fn available_bytes() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    let machine_bytes = system.available_memory();
    #[cfg(target_os = "linux")]
    let machine_bytes = cgroup::free_bytes().map_or(machine_bytes, |bytes| bytes.min(machine_bytes));
    #[cfg(target_os = "macos")]
    let machine_bytes = unified::could_allocate(
        machine_bytes,
        system.free_memory(),
        macos::recommended_working_set_bytes(),
        resident().map_or(0, |resident| resident.now_bytes),
    );
    machine_bytes
}

/// Limits the free memory that allocators cache, for the rest of the process's life.
///
/// Needed for a budget of the whole process: glibc raises its threshold for returning memory to tens of MiB once large
/// blocks are freed, and keeps an arena per thread; MLX caches freed Metal buffers.
pub fn bound_allocators() {
    platform::bound_allocators();
    if let Err(error) = mlx_rs::memory::set_cache_limit(MLX_CACHE_BYTES) {
        tracing::warn!("MLX keeps its default cache limit: {error}");
    }
}

/// Lets MLX keep a budget wired on macOS, or as much of it as Metal recommends; no effect on other systems. To be called
/// before MLX allocates.
///
/// By default MLX wires nothing, and the system unwires a GPU's memory while it waits for the disk: wiring it again for
/// every token is 10 to 30 times slower (ml-explore/mlx#4211). No Mac has run this yet.
pub(crate) fn wire(budget_bytes: u64) {
    #[cfg(target_os = "macos")]
    {
        let Some(limit_bytes) = unified::wired_limit(budget_bytes, macos::recommended_working_set_bytes())
        else {
            tracing::warn!("nothing is wired: Metal does not say how much it recommends");
            return;
        };
        match mlx_rs::memory::set_wired_limit(limit_bytes) {
            Ok(_) => tracing::debug!(limit_bytes, "MLX may wire memory"),
            Err(error) => tracing::warn!("MLX keeps its wired limit: {error}"),
        }
    }
    #[cfg(not(target_os = "macos"))]
    let _ = budget_bytes;
}

/// Returns free memory of the allocator to the system.
pub fn trim() {
    platform::trim();
}

/// MLX's cache limit; its default is most of the machine's memory.
const MLX_CACHE_BYTES: usize = 8 << 20;

#[cfg(target_os = "linux")]
mod platform {
    use std::fs;

    use super::Resident;

    /// Blocks from this size on get a memory mapping of their own.
    const MMAP_THRESHOLD_BYTES: i32 = 256 << 10;
    /// Free memory that is kept at the end of the heap.
    const TRIM_THRESHOLD_BYTES: i32 = 1 << 20;
    const ARENAS: i32 = 2;

    pub(super) fn resident() -> Option<Resident> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some(kib << 10)
        };
        Some(Resident { now_bytes: field("VmRSS:")?, peak_bytes: field("VmHWM:")? })
    }

    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "glibc's settings have no other interface")]
    pub(super) fn bound_allocators() {
        let settings = [
            (libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
            (libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
            (libc::M_ARENA_MAX, ARENAS),
        ];
        for (parameter, value) in settings {
            // SAFETY: mallopt takes any numbers, and may be called at any time.
            if unsafe { libc::mallopt(parameter, value) } == 0 {
                tracing::warn!("glibc refused allocator setting {parameter} = {value}");
            }
        }
    }

    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "glibc's trimming has no other interface")]
    pub(super) fn trim() {
        // SAFETY: malloc_trim has no preconditions.
        unsafe { libc::malloc_trim(0) };
    }

    #[cfg(not(target_env = "gnu"))]
    pub(super) fn bound_allocators() {}
    #[cfg(not(target_env = "gnu"))]
    pub(super) fn trim() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_set_counts_memory_that_is_touched() {
        let before = resident().unwrap();
        let held = vec![1u8; 32 << 20];
        let after = resident().unwrap();
        assert!(after.now_bytes >= before.now_bytes + (24 << 20), "{before:?} {after:?}");
        assert!(after.peak_bytes >= after.now_bytes);
        drop(held);
    }

    #[test]
    fn something_is_available() {
        assert!(available_bytes() > 1 << 20);
    }
}
