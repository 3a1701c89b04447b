//! System prompts.

use crate::dialect::content;
use crate::json::{Invalid, Json};
use crate::request::Part;

/// Beginning of a line that Claude Code puts first and that changes with every request, so that no prompt would have the
/// prefix of the one before (anthropics/claude-code#68900). It says nothing to a model.
const BILLING_HEADER: &str = "x-anthropic-billing-header:";

/// Reads a system prompt: a string, text blocks, or nothing.
pub(super) fn read(path: &str, content: Option<Json>) -> Result<Vec<Part>, Invalid> {
    let parts = content::text_parts(path, content, &["text"])?;
    Ok(parts.into_iter().filter_map(without_billing_header).collect())
}

fn without_billing_header(Part::Text(text): Part) -> Option<Part> {
    if !text.starts_with(BILLING_HEADER) {
        return Some(Part::Text(text));
    }
    let (_, rest) = text.split_once('\n')?;
    let rest = rest.trim_start_matches('\n');
    (!rest.is_empty()).then(|| Part::Text(rest.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(json: &str) -> Vec<String> {
        let parts = read("system", Some(Json::parse(json.as_bytes(), 100).unwrap())).unwrap();
        parts.into_iter().map(|Part::Text(text)| text).collect()
    }

    #[test]
    fn the_billing_header_is_left_out() {
        let blocks = r#"[{"type":"text","text":"x-anthropic-billing-header: cch=1;"},{"type":"text","text":"You help."}]"#;
        assert_eq!(texts(blocks), ["You help."]);
        assert_eq!(texts(r#""x-anthropic-billing-header: cch=2;\n\nYou help.""#), ["You help."]);
        assert_eq!(
            texts(r#""About x-anthropic-billing-header: no.""#),
            ["About x-anthropic-billing-header: no."]
        );
    }
}
