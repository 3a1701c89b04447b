//! Invariants of the header parser for any input; shared by the corpus replay and the fuzz target.

use flash_convert::gguf::Header;

/// Parses `bytes`, checks the invariants of an accepted header, and returns whether it was accepted.
///
/// # Panics
/// If an invariant does not hold.
pub(crate) fn check(bytes: &[u8]) -> bool {
    let Ok(header) = Header::parse(bytes, bytes.len() as u64) else {
        return false;
    };
    assert!(matches!(header.version, 2 | 3));
    assert!(header.alignment.is_power_of_two());
    let mut spans = Vec::new();
    for tensor in &header.tensors {
        assert!((1..=4).contains(&tensor.dims.len()));
        let n_values = tensor.dims.iter().product::<u64>();
        let (block_len, block_bytes) = (tensor.kind.block_len(), tensor.kind.block_bytes());
        assert_eq!(tensor.bytes, n_values / block_len * block_bytes);
        assert!(tensor.bytes > 0 && tensor.dims[0] % block_len == 0);
        assert_eq!(tensor.offset % header.alignment, 0);
        spans.push((tensor.offset, tensor.offset + tensor.bytes));
    }
    spans.sort_unstable();
    assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    assert!(spans.last().is_none_or(|(_, end)| *end <= bytes.len() as u64));
    let mut names: Vec<_> = header.tensors.iter().map(|tensor| &tensor.name).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    true
}
