//! Converts GGUF models to MLX model directories in constant memory.
