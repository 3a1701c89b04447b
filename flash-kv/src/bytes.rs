//! Little-endian fields at fixed offsets in file and record headers.

/// Writes `field` at `offset`.
pub(crate) fn put(header: &mut [u8], offset: usize, field: &[u8]) {
    header[offset..offset + field.len()].copy_from_slice(field);
}

pub(crate) fn put_u32(header: &mut [u8], offset: usize, field: u32) {
    put(header, offset, &field.to_le_bytes());
}

pub(crate) fn get<const N: usize>(header: &[u8], offset: usize) -> [u8; N] {
    *header[offset..].first_chunk().expect("fields lie within the header")
}

pub(crate) fn get_u32(header: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(get(header, offset))
}

/// Returns the CRC-32C of `bytes` without the four bytes at `offset`, where the checksum itself is stored.
pub(crate) fn checksum_around(bytes: &[u8], offset: usize) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..offset]), &bytes[offset + 4..])
}
