//! Text tables with headings.

use anstyle::Style;

use crate::size::Bytes;

const HEADING: Style = Style::new().bold();
const GAP: &str = "  ";

/// A cell: its text, and whether it is right-aligned, as numbers are.
pub(crate) type Cell = (String, bool);

/// Returns a left-aligned cell.
pub(crate) fn left(text: impl Into<String>) -> Cell {
    (text.into(), false)
}

/// Returns a right-aligned cell with a number of bytes.
pub(crate) fn size(bytes: u64) -> Cell {
    (Bytes(bytes).to_string(), true)
}

/// Formats a count with its noun: `1 file`, `2 files`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// Formats a heading and rows with aligned columns.
pub(crate) fn section(heading: &str, rows: &[Vec<Cell>]) -> String {
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..n_columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.0.chars().count()).max())
        .map(Option::unwrap_or_default)
        .collect();
    let mut text = format!("{HEADING}{heading}{HEADING:#}\n");
    for row in rows {
        let mut line = String::new();
        for ((cell, is_right), &width) in row.iter().zip(&widths) {
            line.push_str(GAP);
            line.push_str(&if *is_right { format!("{cell:>width$}") } else { format!("{cell:<width$}") });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_space() {
        let rows = [vec![left("a"), size(10), left("")], vec![left("bcd"), size(5), left("x")]];
        let text = section("Heading", &rows);
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(lines, ["  a    10 B", "  bcd   5 B  x"]);
    }
}
