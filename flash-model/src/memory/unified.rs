//! Limits of memory that the processor shares with a GPU, as on Apple silicon.

/// Level of memory pressure from which on the kernel asks programs to release memory: a warning.
const PRESSURE_WARNING: i32 = 2;

/// Returns whether the kernel's level of memory pressure (1 normal, 2 warning, 4 critical) asks for memory.
pub(super) fn is_short(pressure_level: i32) -> bool {
    pressure_level >= PRESSURE_WARNING
}

/// Returns the memory that a process of `held_bytes` could still allocate.
///
/// `available_bytes` is what sysinfo calls available: free and inactive memory less what the compressor holds, which is 0
/// once the compressor holds more. Memory that is `free_bytes` is available then, too. Beyond the GPU's recommended
/// working set, memory cannot be kept resident for it.
pub(super) fn could_allocate(
    available_bytes: u64,
    free_bytes: u64,
    recommended_bytes: Option<u64>,
    held_bytes: u64,
) -> u64 {
    let machine_bytes = available_bytes.max(free_bytes);
    recommended_bytes.map_or(machine_bytes, |bytes| machine_bytes.min(bytes.saturating_sub(held_bytes)))
}

/// Returns how much memory MLX may wire: never more than the budget or than recommended, above which MLX refuses, and
/// kernels have panicked. `None` if nothing is recommended.
pub(super) fn wired_limit(budget_bytes: u64, recommended_bytes: Option<u64>) -> Option<usize> {
    usize::try_from(budget_bytes.min(recommended_bytes?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn memory_is_short_from_a_warning_on() {
        assert_eq!([0, 1, 2, 4].map(is_short), [false, false, true, true]);
    }

    #[test]
    fn free_memory_is_available_however_much_is_compressed() {
        assert_eq!(could_allocate(0, 3 * GIB, None, GIB), 3 * GIB);
        assert_eq!(could_allocate(5 * GIB, 3 * GIB, None, GIB), 5 * GIB);
    }

    #[test]
    fn wired_limit_exceeds_neither_budget_nor_recommendation() {
        assert_eq!(wired_limit(4 * GIB, Some(12 * GIB)), Some(4 << 30));
        assert_eq!(wired_limit(16 * GIB, Some(12 * GIB)), Some(12 << 30));
        assert_eq!(wired_limit(16 * GIB, None), None);
    }

    #[test]
    fn process_never_grows_beyond_the_recommended_working_set() {
        assert_eq!(could_allocate(40 * GIB, GIB, Some(48 * GIB), 10 * GIB), 38 * GIB);
        assert_eq!(could_allocate(40 * GIB, GIB, Some(48 * GIB), 50 * GIB), 0);
        assert_eq!(could_allocate(10 * GIB, GIB, Some(48 * GIB), 10 * GIB), 10 * GIB);
    }
}
