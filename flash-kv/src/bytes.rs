//! Fields of fixed offset in heads of files and records: little endian.

pub(crate) fn put(head: &mut [u8], offset: usize, field: &[u8]) {
    head[offset..offset + field.len()].copy_from_slice(field);
}

pub(crate) fn put_u32(head: &mut [u8], offset: usize, field: u32) {
    put(head, offset, &field.to_le_bytes());
}

pub(crate) fn get<const N: usize>(head: &[u8], offset: usize) -> [u8; N] {
    *head[offset..].first_chunk().expect("fields lie in their head")
}

pub(crate) fn get_u32(head: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(get(head, offset))
}

/// The checksum of everything but the four bytes at `offset`, where it is kept.
pub(crate) fn checksum_around(bytes: &[u8], offset: usize) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..offset]), &bytes[offset + 4..])
}
