//! Cores available to this process.

use std::num::NonZeroUsize;
use std::thread;

/// Clock rate of a big core as a fraction of the highest: favoured big cores are up to 6 % faster than others, and little
/// cores at least 18 % slower (Intel since the 12th generation, Arm's big.LITTLE).
const BIG_RATE: f64 = 0.85;

/// Returns the number of physical cores in the affinity mask, limited by the CPU quota of the control group. Hardware
/// threads of one core count once.
pub(crate) fn usable() -> NonZeroUsize {
    // Respects affinity and quota, but counts hardware threads.
    let logical = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    physical().map_or(logical, |physical| logical.min(physical))
}

/// Returns the numbers of threads that may be the fastest on this machine, [the usual one](usable) first: one for each
/// physical core, one for each hardware thread, and one for each big core.
pub(crate) fn choices() -> Vec<NonZeroUsize> {
    let logical = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let mut choices = vec![usable()];
    for other in [Some(logical), big()].into_iter().flatten() {
        let other = other.min(logical);
        if !choices.contains(&other) {
            choices.push(other);
        }
    }
    choices
}

/// Returns the number of cores in this thread's affinity mask, if the system reports both the mask and the topology.
#[cfg(target_os = "linux")]
fn physical() -> Option<NonZeroUsize> {
    NonZeroUsize::new(count_cores(allowed()?.into_iter(), siblings))
}

/// Returns the number of big cores in this thread's affinity mask, if the system reports their clock rates.
#[cfg(target_os = "linux")]
fn big() -> Option<NonZeroUsize> {
    let rate = |cpu: usize| read(cpu, "cpufreq/cpuinfo_max_freq")?.trim().parse().ok();
    NonZeroUsize::new(count_cores(big_of(&allowed()?, rate).into_iter(), siblings))
}

/// Returns the CPUs in this thread's affinity mask.
#[cfg(target_os = "linux")]
fn allowed() -> Option<Vec<usize>> {
    let mask = rustix::thread::sched_getaffinity(None).ok()?;
    Some((0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| mask.is_set(*cpu)).collect())
}

/// Returns the list of hardware threads of a CPU's core.
#[cfg(target_os = "linux")]
fn siblings(cpu: usize) -> Option<String> {
    read(cpu, "topology/thread_siblings_list")
}

/// Reads an attribute of a CPU.
#[cfg(target_os = "linux")]
fn read(cpu: usize, attribute: &str) -> Option<String> {
    std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/{attribute}")).ok()
}

/// Returns `None`: Apple's processors run one thread per core.
#[cfg(not(target_os = "linux"))]
fn physical() -> Option<NonZeroUsize> {
    None
}

#[cfg(not(target_os = "linux"))]
fn big() -> Option<NonZeroUsize> {
    None
}

/// Returns those of the `allowed` CPUs whose maximum clock `rate` is close to the highest; none if a rate is unknown.
#[cfg_attr(not(any(target_os = "linux", test)), expect(dead_code, reason = "other systems report no rates"))]
fn big_of(allowed: &[usize], rate: impl Fn(usize) -> Option<u64>) -> Vec<usize> {
    let rates: Option<Vec<u64>> = allowed.iter().map(|cpu| rate(*cpu)).collect();
    let rates = rates.unwrap_or_default();
    let highest = rates.iter().copied().max().unwrap_or(0);
    let is_big = |rate: u64| rate as f64 >= BIG_RATE * highest as f64;
    allowed.iter().zip(rates).filter(|(_, rate)| is_big(*rate)).map(|(cpu, _)| *cpu).collect()
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
    fn big_cores_are_those_with_about_the_highest_clock_rate() {
        // A Core i9-13900K: a favoured core, other big ones, and little ones, in MHz.
        let rate = |cpu: usize| Some([5800, 5800, 5500, 5500, 4300, 4300][cpu]);
        assert_eq!(big_of(&[0, 1, 2, 3, 4, 5], rate), [0, 1, 2, 3]);
        assert_eq!(big_of(&[4, 5], rate), [4, 5], "the highest of those that are allowed");
        assert!(big_of(&[0, 1], |cpu| rate(cpu).filter(|_| cpu > 0)).is_empty());
        assert!(big_of(&[], rate).is_empty());
    }

    #[test]
    fn choices_of_threads_differ_and_begin_with_the_usual_one() {
        let choices = choices();
        assert_eq!(choices[0], usable());
        assert!(choices.iter().enumerate().all(|(idx, n)| !choices[..idx].contains(n)), "{choices:?}");
        assert!(choices.iter().all(|n| *n <= thread::available_parallelism().unwrap()));
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
