//! Python's string functions, with its definitions of spaces, line ends and cased letters.

/// Maximum padding that a template may request, in characters.
pub(super) const PADDING_CHARS_MAX: usize = 1 << 20;

/// Returns whether a character is a space for Python's `str.isspace`, which includes the four ASCII separators.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// Returns whether a character is a decimal digit.
pub(super) fn is_decimal(c: char) -> bool {
    c.is_ascii_digit() || (!c.is_ascii() && c.is_numeric())
}

/// Returns whether a letter is title case: an upper case letter followed by a lower case one in a single character.
fn is_title_letter(c: char) -> bool {
    matches!(c, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ' | '\u{1f88}'..='\u{1f8f}' | '\u{1f98}'..='\u{1f9f}' | '\u{1fa8}'..='\u{1faf}' | 'ᾼ' | 'ῌ' | 'ῼ')
}

pub(super) fn is_upper(c: char) -> bool {
    c.is_uppercase() || is_title_letter(c)
}

pub(super) fn is_lower(c: char) -> bool {
    c.is_lowercase() || is_title_letter(c)
}

fn is_cased(c: char) -> bool {
    is_upper(c) || c.is_lowercase()
}

/// Appends the title case form of a character.
fn title_char(c: char, out: &mut String) {
    match c {
        'Ǆ' | 'ǅ' | 'ǆ' => out.push('ǅ'),
        'Ǉ' | 'ǈ' | 'ǉ' => out.push('ǈ'),
        'Ǌ' | 'ǋ' | 'ǌ' => out.push('ǋ'),
        'Ǳ' | 'ǲ' | 'ǳ' => out.push('ǲ'),
        _ => {
            let mut upper = c.to_uppercase();
            out.extend(upper.next());
            out.extend(upper.flat_map(char::to_lowercase));
        }
    }
}

/// Implements `str.title`: letters after a letter are lower case, others start a word.
pub(super) fn title(text: &str) -> String {
    let lower = text.to_lowercase();
    // If lower case changes the number of characters, each character is converted separately.
    let same = lower.chars().count() == text.chars().count();
    let (mut out, mut in_word) = (String::with_capacity(text.len()), false);
    let mut lowers = lower.chars();
    for c in text.chars() {
        let lowered = lowers.next();
        match (in_word, lowered) {
            (true, Some(lowered)) if same => out.push(lowered),
            (true, _) => out.extend(c.to_lowercase()),
            (false, _) => title_char(c, &mut out),
        }
        in_word = is_cased(c);
    }
    out
}

/// Implements `str.capitalize`.
pub(super) fn capitalize(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    if let Some(first) = chars.next() {
        title_char(first, &mut out);
        let lower = text.to_lowercase();
        let n_first: usize = first.to_lowercase().count();
        out.extend(lower.chars().skip(n_first));
    }
    out
}

/// Implements `str.swapcase`.
pub(super) fn swap_case(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_title_letter(c) {
            out.push(c);
        } else if c.is_uppercase() {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
    }
    out
}

/// Implements `str.istitle`.
pub(super) fn is_title(text: &str) -> bool {
    let (mut in_word, mut has_word) = (false, false);
    for c in text.chars() {
        if is_upper(c) && in_word || c.is_lowercase() && !in_word {
            return false;
        }
        in_word = is_cased(c);
        has_word |= in_word;
    }
    has_word
}

/// Returns whether a character ends a line.
fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Implements `str.splitlines`.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some((at, end)) = rest.char_indices().find(|(_, c)| is_line_end(*c)) {
        let is_pair = rest[at..].starts_with("\r\n");
        let next = at + if is_pair { 2 } else { end.len_utf8() };
        lines.push(&rest[..if keep_ends { next } else { at }]);
        rest = &rest[next..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// Implements `str.split` at runs of spaces.
pub(super) fn split_spaces(text: &str, n_max: usize) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), text.trim_start_matches(is_space));
    while !rest.is_empty() {
        let end = if parts.len() < n_max { rest.find(is_space) } else { None };
        let Some(end) = end else {
            // The remainder after the last split keeps its trailing spaces.
            parts.push(rest);
            break;
        };
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    parts
}

/// Implements `str.rsplit` at runs of spaces.
pub(super) fn rsplit_spaces(text: &str, n_max: usize) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), text.trim_end_matches(is_space));
    while !rest.is_empty() {
        let last = if parts.len() < n_max { rest.char_indices().rfind(|(_, c)| is_space(*c)) } else { None };
        let Some((at, space)) = last else {
            parts.push(rest);
            break;
        };
        parts.push(&rest[at + space.len_utf8()..]);
        rest = rest[..at].trim_end_matches(is_space);
    }
    parts.reverse();
    parts
}

/// Implements `str.expandtabs`.
pub(super) fn expand_tabs(text: &str, tab_chars: usize) -> String {
    let (mut out, mut column) = (String::with_capacity(text.len()), 0);
    for c in text.chars() {
        match c {
            '\t' if tab_chars > 0 && tab_chars <= PADDING_CHARS_MAX => {
                let n_spaces = tab_chars - column % tab_chars;
                out.extend(std::iter::repeat_n(' ', n_spaces));
                column += n_spaces;
            }
            '\t' => {}
            '\n' | '\r' => {
                out.push(c);
                column = 0;
            }
            _ => {
                out.push(c);
                column += 1;
            }
        }
    }
    out
}
