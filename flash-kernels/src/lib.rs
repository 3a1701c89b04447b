//! CPU kernels over slices for the number formats of language-model weights.
