//! The default memory budget.

use flash_model::memory;

use crate::size::Size;

/// Minimum headroom: free memory that is left to other programs. The headroom is a tenth if that is more.
const HEADROOM_BYTES: u64 = 256 << 20;

/// Returns the budget: `ram` if given, otherwise free memory plus that of this process, minus headroom.
pub(crate) fn bytes(ram: Option<Size>) -> u64 {
    let own_bytes = memory::resident().map_or(0, |resident| resident.now_bytes);
    ram.map_or_else(|| minus_headroom(memory::available_bytes() + own_bytes), Size::bytes)
}

/// Subtracts the headroom, which is at most a quarter, so that small machines have a budget at all.
fn minus_headroom(free_bytes: u64) -> u64 {
    free_bytes - (free_bytes / 10).max(HEADROOM_BYTES).min(free_bytes / 4)
}

/// Returns the memory to keep free while running with a budget of `budget_bytes`.
pub(crate) fn headroom(budget_bytes: u64) -> u64 {
    HEADROOM_BYTES.min(budget_bytes / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headroom_is_a_tenth_or_256_mib_or_a_quarter() {
        assert_eq!(minus_headroom(100 << 30), 90 << 30);
        assert_eq!(minus_headroom(2 << 30), (2 << 30) - (256 << 20));
        assert_eq!(minus_headroom(400 << 20), 300 << 20);
        assert_eq!(minus_headroom(0), 0);
    }
}
