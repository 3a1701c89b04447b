//! The memory and the format of a key-value cache, without knowing the tensor library.
