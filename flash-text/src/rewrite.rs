//! Rewriting of templates for the differences between minijinja and Jinja.
//!
//! The `%` operator becomes the filter [`REM`], since minijinja supports it only for numbers, and the iterable of a
//! `for` loop passes through the filter [`ITEMS`], since minijinja does not know the length of a string (`loop.last`
//! would always be false). A template that cannot be tokenized is left unchanged, and minijinja reports the error.

use std::borrow::Cow;

/// The filter that replaces `%`.
pub(super) const REM: &str = "__rem__";
/// The filter around the iterable of a loop.
pub(super) const ITEMS: &str = "__items__";

/// Keywords that separate operands.
const KEYWORDS: [&str; 9] = ["and", "or", "not", "in", "is", "if", "else", "elif", "recursive"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    String,
    Number,
    Name,
    Operator,
}

#[derive(Clone, Copy, Debug)]
struct Token<'s> {
    kind: Kind,
    text: &'s str,
    start: usize,
}

impl Token<'_> {
    fn end(&self) -> usize {
        self.start + self.text.len()
    }

    fn is(&self, text: &str) -> bool {
        self.kind != Kind::String && self.text == text
    }

    fn is_keyword(&self) -> bool {
        self.kind == Kind::Name && KEYWORDS.contains(&self.text)
    }
}

/// Rewrites the source of a template.
pub(super) fn rewrite(source: &str) -> Cow<'_, str> {
    let mut edits = Vec::new();
    if edit(source, &mut edits).is_none() || edits.is_empty() {
        return Cow::Borrowed(source);
    }
    // The sort is stable, so edits at the same position stay in order.
    edits.sort_by_key(|(at, _, _)| *at);
    let (mut out, mut from) = (String::with_capacity(source.len() + 64), 0);
    for (at, removed, text) in edits {
        out.push_str(&source[from..at]);
        out.push_str(&text);
        from = at + removed;
    }
    out.push_str(&source[from..]);
    Cow::Owned(out)
}

/// Position of an edit, number of bytes to remove, and their replacement.
type Edit = (usize, usize, String);

/// Collects the edits of all tags; `None` if a tag does not end.
fn edit(source: &str, edits: &mut Vec<Edit>) -> Option<()> {
    let mut at = 0;
    while let Some(found) = source[at..].find('{') {
        let start = at + found;
        let rest = &source[start..];
        if rest.starts_with("{#") {
            at = start + rest.find("#}")? + 2;
        } else if rest.starts_with("{{") || rest.starts_with("{%") {
            let tokens = tokens(source, start + 2, if rest.starts_with("{{") { "}}" } else { "%}" })?;
            at = tokens.last().map_or(start + 2, Token::end);
            // A sign right after the opening delimiter controls whitespace.
            let is_control = rest[2..].starts_with(['-', '+']);
            let tokens = &tokens[usize::from(is_control)..];
            if rest.starts_with("{%") && tokens.first()?.is("raw") {
                at += source[at..].find("endraw")?;
                continue;
            }
            edit_loop(tokens, edits);
            edit_rem(tokens, edits);
        } else {
            at = start + 1;
        }
    }
    Some(())
}

/// Returns the tokens of a tag from `at` up to and including the closing delimiter `end`.
fn tokens<'s>(source: &'s str, mut at: usize, end: &str) -> Option<Vec<Token<'s>>> {
    let (mut tokens, mut depth) = (Vec::new(), 0usize);
    loop {
        let rest = &source[at..];
        let c = rest.chars().next()?;
        let (kind, length) = if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        } else if depth == 0 && rest.starts_with(end) {
            tokens.push(Token { kind: Kind::Operator, text: &rest[..end.len()], start: at });
            return Some(tokens);
        } else if c == '"' || c == '\'' {
            (Kind::String, string_bytes(rest, c)?)
        } else if c.is_ascii_digit() {
            let more = |c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.');
            (Kind::Number, rest.find(more).unwrap_or(rest.len()))
        } else if c == '_' || c.is_alphanumeric() {
            let more = |c: char| !(c == '_' || c.is_alphanumeric());
            (Kind::Name, rest.find(more).unwrap_or(rest.len()))
        } else {
            match c {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth = depth.checked_sub(1)?,
                _ => {}
            }
            let is_pair = ["//", "**", "==", "!=", "<=", ">="].iter().any(|pair| rest.starts_with(pair));
            (Kind::Operator, if is_pair { 2 } else { c.len_utf8() })
        };
        tokens.push(Token { kind, text: &rest[..length], start: at });
        at += length;
    }
}

/// Returns the length of the string literal at the start of a text.
fn string_bytes(text: &str, quote: char) -> Option<usize> {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Wraps the iterable of a `for` tag in [`ITEMS`].
fn edit_loop(tokens: &[Token<'_>], edits: &mut Vec<Edit>) {
    if !tokens.first().is_some_and(|token| token.is("for")) {
        return;
    }
    let Some(start) = tokens.iter().position(|token| token.is("in")).map(|place| place + 1) else { return };
    let mut depth = 0i32;
    let end = (start..tokens.len()).find(|&place| {
        let token = &tokens[place];
        depth += i32::from(token.kind == Kind::Operator && matches!(token.text, "(" | "[" | "{"));
        depth -= i32::from(token.kind == Kind::Operator && matches!(token.text, ")" | "]" | "}"));
        let is_end = place + 1 == tokens.len()
            || (place + 2 == tokens.len() && (token.is("-") || token.is("+")))
            || token.is("if")
            || token.is("recursive");
        depth == 0 && is_end
    });
    if let Some(end) = end.filter(|end| *end > start) {
        edits.push((tokens[start].start, 0, "(".to_owned()));
        edits.push((tokens[end - 1].end(), 0, format!(")|{ITEMS}")));
    }
}

/// Replaces each `%` that may format a string by [`REM`].
fn edit_rem(tokens: &[Token<'_>], edits: &mut Vec<Edit>) {
    let mut before: Option<(usize, usize)> = None;
    for place in 1..tokens.len().saturating_sub(1) {
        if !tokens[place].is("%") {
            continue;
        }
        let left =
            operand_before(tokens, place).and_then(|left| match left.checked_sub(1).map(|idx| tokens[idx]) {
                Some(token) if ["*", "/", "//", "**"].iter().any(|operator| token.is(operator)) => None,
                Some(token) if token.is("%") => before.filter(|(at, _)| at + 1 == left).map(|(_, left)| left),
                _ => Some(left),
            });
        let (Some(left), Some(right)) = (left, operand_after(tokens, place)) else { continue };
        before = Some((place, left));
        let is_text = tokens[left].kind == Kind::String;
        let is_number = right == place + 2 && tokens[place + 1].kind == Kind::Number;
        if is_number && !is_text {
            continue;
        }
        edits.push((tokens[left].start, 0, "(".to_owned()));
        edits.push((tokens[place].start, 1, format!(")|{REM}(")));
        edits.push((tokens[right - 1].end(), 0, ")".to_owned()));
    }
}

fn is_operand_end(token: &Token<'_>) -> bool {
    match token.kind {
        Kind::String | Kind::Number => true,
        Kind::Name => !token.is_keyword(),
        Kind::Operator => matches!(token.text, ")" | "]" | "}"),
    }
}

/// Returns the first token of the operand that ends before `place`, including its sign.
fn operand_before(tokens: &[Token<'_>], place: usize) -> Option<usize> {
    let mut at = place.checked_sub(1)?;
    loop {
        let token = &tokens[at];
        if !is_operand_end(token) {
            return None;
        }
        if token.kind == Kind::Operator {
            at = opening(tokens, at)?;
            // A call or an index belongs to the operand before it.
            if at > 0 && is_operand_end(&tokens[at - 1]) {
                at -= 1;
                continue;
            }
        } else if at > 0 && token.kind == Kind::String && tokens[at - 1].kind == Kind::String {
            at -= 1;
            continue;
        } else if at > 1 && token.kind == Kind::Name && (tokens[at - 1].is(".") || tokens[at - 1].is("|")) {
            at -= 2;
            continue;
        }
        let is_sign = |at: usize| tokens[at].is("-") || tokens[at].is("+");
        if at > 0 && is_sign(at - 1) && (at == 1 || !is_operand_end(&tokens[at - 2])) {
            at -= 1;
        }
        return Some(at);
    }
}

/// Returns the token after the operand that starts after `place`.
fn operand_after(tokens: &[Token<'_>], place: usize) -> Option<usize> {
    let mut at = place + 1;
    while tokens.get(at)?.is("-") || tokens.get(at)?.is("+") {
        at += 1;
    }
    let first = tokens.get(at)?;
    at = match first.kind {
        Kind::String => at + tokens[at..].iter().take_while(|token| token.kind == Kind::String).count(),
        Kind::Number => at + 1,
        Kind::Name if !first.is_keyword() => at + 1,
        Kind::Operator if matches!(first.text, "(" | "[" | "{") => closing(tokens, at)? + 1,
        _ => return None,
    };
    loop {
        let token = tokens.get(at)?;
        at = if token.is("(") || token.is("[") {
            closing(tokens, at)? + 1
        } else if (token.is(".") || token.is("|")) && tokens.get(at + 1)?.kind == Kind::Name {
            at + 2
        } else {
            // `is` and `**` bind more tightly than `%` in Jinja.
            return (!token.is("is") && !token.is("**")).then_some(at);
        };
    }
}

fn opening(tokens: &[Token<'_>], close: usize) -> Option<usize> {
    let mut depth = 0;
    (0..=close).rev().find(|&at| step(&tokens[at], &mut depth) && depth == 0)
}

fn closing(tokens: &[Token<'_>], open: usize) -> Option<usize> {
    let mut depth = 0;
    (open..tokens.len()).find(|&at| step(&tokens[at], &mut depth) && depth == 0)
}

/// Updates `depth` for a bracket; returns whether the token is one.
fn step(token: &Token<'_>, depth: &mut i32) -> bool {
    if token.kind != Kind::Operator {
        return false;
    }
    match token.text {
        "(" | "[" | "{" => *depth += 1,
        ")" | "]" | "}" => *depth -= 1,
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_of_the_operator_are_those_of_jinja() {
        for (source, wanted) in [
            ("{{ '%s' % x }}", "{{ ('%s' )|__rem__( x) }}"),
            ("{{ a.b[0](c)|f % d.e|g(1) + 2 }}", "{{ (a.b[0](c)|f )|__rem__( d.e|g(1)) + 2 }}"),
            ("{{ -7 % n }}{{ 1 - 7 % n }}", "{{ (-7 )|__rem__( n) }}{{ 1 - (7 )|__rem__( n) }}"),
            ("{{- 7 % n }}", "{{- (7 )|__rem__( n) }}"),
            ("{{ a % b % c }}", "{{ ((a )|__rem__( b) )|__rem__( c) }}"),
            ("{%- set x = '%' % ('a' % b) -%}", "{%- set x = ('%' )|__rem__( (('a' )|__rem__( b))) -%}"),
            ("{%for x in 'ab'if x recursive%}", "{%for x in ('ab')|__items__if x recursive%}"),
            ("{% for k, v in {'a': 1}.items() -%}", "{% for k, v in ({'a': 1}.items())|__items__ -%}"),
        ] {
            assert_eq!(rewrite(source), wanted);
        }
    }

    #[test]
    fn templates_without_differences_are_unchanged() {
        for source in [
            "{{ loop.index0 % 2 == 0 }}",
            "{% if (loop.index0 % 2 == 0) != (m.role == 'user') %}100 % sure{% endif %}",
            "{# '%s' % x #}{% raw %}{{ '%s' % x }}{% endraw %}",
            "{{ 2 * a % b }}",
            "{{ 'unclosed % x }}",
            "{% if x",
        ] {
            assert!(matches!(rewrite(source), Cow::Borrowed(_)), "{source}: {}", rewrite(source));
        }
    }
}
