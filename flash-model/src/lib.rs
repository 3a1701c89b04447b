//! Streams language models through MLX: proxies around layers, a residency under a hard budget, text generation.
