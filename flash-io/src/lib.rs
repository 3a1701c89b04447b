//! Reads tensors of safetensors checkpoints from disk into page-aligned memory under a byte budget.
