//! Comparison of this crate's parser with that of the `safetensors` crate.

use std::path::Path;

use flash_io::{Header, HeaderFault, IoError, ReadAt};
use safetensors::{SafeTensorError, SafeTensors};

/// Parses a whole file with both, and panics if they disagree without a known reason, or if an accepted header violates
/// an invariant.
pub(crate) fn check(file: &dyn ReadAt, bytes: &[u8]) {
    let ours = Header::read(Path::new("input"), file);
    let theirs = SafeTensors::read_metadata(bytes);
    match (ours, theirs) {
        (Ok(header), Ok((header_bytes, theirs))) => {
            assert_eq!(header.data_start, 8 + header_bytes as u64);
            assert_tiled(&header, bytes.len() as u64);
            let expected = theirs.tensors();
            assert_eq!(header.tensors.len(), expected.len());
            for tensor in &header.tensors {
                let info = expected[&tensor.name];
                assert_eq!(tensor.dtype.name(), info.dtype.to_string());
                assert!(
                    tensor.shape.iter().eq(info
                        .shape
                        .iter()
                        .map(|&extent| extent as u64)
                        .collect::<Vec<_>>()
                        .iter())
                );
                let (start, end) =
                    (tensor.span.start - header.data_start, tensor.span.end - header.data_start);
                assert_eq!((start as usize, end as usize), info.data_offsets);
            }
        }
        // The `safetensors` crate buffers the values of unknown fields, which limits them; this crate skips them.
        (Ok(header), Err(SafeTensorError::InvalidHeaderDeserialization(_))) => {
            assert_tiled(&header, bytes.len() as u64);
        }
        (Ok(_), Err(error)) => panic!("accepted what safetensors refuses: {error}"),
        (Err(IoError::Header { fault, .. }), Ok(_)) if stricter(&fault) => {}
        (Err(error), Ok(_)) => panic!("refused a good header: {error}"),
        (Err(IoError::Header { .. }), Err(_)) => {}
        (Err(error), _) => panic!("not an error of headers: {error}"),
    }
}

/// Returns whether the format forbids what the `safetensors` crate accepts.
fn stricter(fault: &HeaderFault) -> bool {
    match fault {
        HeaderFault::NotAnObject
        | HeaderFault::DuplicateTensor { .. }
        | HeaderFault::DuplicateField { .. } => true,
        HeaderFault::NotATensor { tensor, .. } => tensor == "__metadata__",
        _ => false,
    }
}

fn assert_tiled(header: &Header, file_bytes: u64) {
    let mut at = header.data_start;
    for tensor in &header.tensors {
        assert_eq!(tensor.span.start, at);
        let bits = tensor.shape.iter().product::<u64>() * tensor.dtype.bits();
        assert_eq!(bits, tensor.span.len_bytes() * 8);
        at = tensor.span.end;
    }
    assert_eq!(at, file_bytes);
}
