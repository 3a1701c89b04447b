//! Tensor names with layer numbers replaced, to group tensors of all layers.

/// Replaces numbers in a tensor name: `model.layers.7.mlp.up_proj.weight` becomes `model.layers.*.mlp.up_proj.weight`.
pub(crate) fn collapse(name: &str) -> String {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    name.split('.').map(|part| if is_number(part) { "*" } else { part }).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_are_collapsed() {
        assert_eq!(collapse("model.layers.12.mlp.up_proj.weight"), "model.layers.*.mlp.up_proj.weight");
        assert_eq!(collapse("a.experts.0.w1.weight"), "a.experts.*.w1.weight");
        assert_eq!(collapse("lm_head.weight"), "lm_head.weight");
    }
}
