//! How much memory to take when nobody says.

use flash_model::memory;

use crate::size::Size;

/// What of the free memory is left for everyone else: a tenth, but at least so much.
const HEADROOM_BYTES: u64 = 256 << 20;

/// The budget: what is asked for, or else what is free with what the process already has, less headroom.
pub(crate) fn bytes(ram: Option<Size>) -> u64 {
    let own_bytes = memory::resident().map_or(0, |resident| resident.now_bytes);
    ram.map_or_else(|| less_headroom(memory::available_bytes() + own_bytes), Size::bytes)
}

/// In little memory the headroom is a quarter at most, so that small machines have a budget at all.
fn less_headroom(free_bytes: u64) -> u64 {
    free_bytes - (free_bytes / 10).max(HEADROOM_BYTES).min(free_bytes / 4)
}

/// What is to stay free while a program runs that took so much.
pub(crate) fn headroom(budget_bytes: u64) -> u64 {
    HEADROOM_BYTES.min(budget_bytes / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headroom_is_a_tenth_or_256_mib_or_a_quarter() {
        assert_eq!(less_headroom(100 << 30), 90 << 30);
        assert_eq!(less_headroom(2 << 30), (2 << 30) - (256 << 20));
        assert_eq!(less_headroom(400 << 20), 300 << 20);
        assert_eq!(less_headroom(0), 0);
    }
}
