//! Number of physical cores available to this process.

use std::num::NonZeroUsize;
use std::thread;

/// Returns the number of physical cores in the affinity mask, limited by the CPU quota of the control group. Hardware
/// threads of one core count once.
pub(super) fn usable() -> NonZeroUsize {
    // Respects affinity and quota, but counts hardware threads.
    let logical = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    physical().map_or(logical, |physical| logical.min(physical))
}

/// Returns the number of cores in this thread's affinity mask, if the system reports both the mask and the topology.
#[cfg(target_os = "linux")]
fn physical() -> Option<NonZeroUsize> {
    let mask = rustix::thread::sched_getaffinity(None).ok()?;
    let allowed = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| mask.is_set(*cpu));
    let siblings = |cpu: usize| {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        std::fs::read_to_string(path).ok()
    };
    NonZeroUsize::new(count_cores(allowed, siblings))
}

/// Returns `None`: Apple's processors run one thread per core.
#[cfg(not(target_os = "linux"))]
fn physical() -> Option<NonZeroUsize> {
    None
}

/// Counts the cores of the `allowed` CPUs. CPUs with the same list of `siblings` are hardware threads of one core; a
/// CPU without a list counts as a core.
#[cfg_attr(
    not(any(target_os = "linux", test)),
    expect(dead_code, reason = "other systems report no siblings")
)]
fn count_cores(allowed: impl Iterator<Item = usize>, siblings: impl Fn(usize) -> Option<String>) -> usize {
    let core = |cpu: usize| siblings(cpu).ok_or(cpu);
    allowed.map(core).collect::<std::collections::HashSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine of 64 cores, where the CPUs from 64 on are the second hardware threads.
    fn siblings(cpu: usize) -> Option<String> {
        Some(format!("{},{}\n", cpu % 64, cpu % 64 + 64))
    }

    #[test]
    fn a_core_counts_once_whichever_of_its_hardware_threads_are_allowed() {
        assert_eq!(count_cores(0..128, siblings), 64);
        assert_eq!(count_cores([0, 64].into_iter(), siblings), 1, "both threads of one core");
        assert_eq!(count_cores([0, 1, 2, 3, 64, 65, 66, 67].into_iter(), siblings), 4);
        assert_eq!(count_cores(64..128, siblings), 64, "the second threads alone");
        assert_eq!(count_cores([3, 70].into_iter(), siblings), 2);
    }

    #[test]
    fn cpus_without_a_topology_count_one_by_one() {
        assert_eq!(count_cores(0..6, |_| None), 6);
        assert_eq!(count_cores(0..6, |cpu| siblings(cpu).filter(|_| cpu < 2)), 6);
    }

    #[test]
    fn a_pool_for_this_machine_has_no_more_threads_than_it_may_use() {
        let logical = thread::available_parallelism().unwrap();
        assert!(usable() <= logical);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_affinity_of_the_thread_is_respected() {
        // The mask applies only to a thread that ends with the test.
        let one = |cpu: usize| {
            let mut mask = rustix::thread::CpuSet::new();
            mask.set(cpu);
            mask
        };
        let all = rustix::thread::sched_getaffinity(None).unwrap();
        let cpu = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap();
        let pinned = thread::spawn(move || {
            rustix::thread::sched_setaffinity(None, &one(cpu)).unwrap();
            usable().get()
        });
        assert_eq!(pinned.join().unwrap(), 1);
    }
}
