//! A bar chart of tokens per second by budget, with a resolution of an eighth of a line.

use std::fmt::Write as _;

use super::report::Report;
use crate::size::Bytes;
use crate::speed::Digits;

const LINES: usize = 8;
/// Block characters from empty to full.
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const GAP: &str = "  ";
/// Width of the labels at the left.
const LABEL_WIDTH: usize = 7;
/// Minimum number of points.
const POINTS_MIN: usize = 16;

/// Returns the number of points that fit beside the labels.
pub(super) fn n_points(columns: usize) -> usize {
    columns.saturating_sub(2 * GAP.len() + LABEL_WIDTH).max(POINTS_MIN)
}

/// Draws a column per point, and below them the planned budget and the budgets at both ends.
pub(super) fn render(report: &Report) -> String {
    let tok_per_s: Vec<f64> = report.curve.iter().map(|point| point.tok_per_s).collect();
    let max = tok_per_s.iter().copied().fold(0.0, f64::max);
    let mut text = String::new();
    for line in (0..LINES).rev() {
        let label = if line + 1 == LINES { Digits(max).to_string() } else { String::new() };
        let blocks: String =
            tok_per_s.iter().map(|tok_per_s| block(tok_per_s / max * LINES as f64 - line as f64)).collect();
        text.push_str(format!("{GAP}{label:>LABEL_WIDTH$}{GAP}{blocks}").trim_end());
        text.push('\n');
    }
    let axis = axis(report, tok_per_s.len());
    for line in axis {
        let _ = writeln!(text, "{GAP}{:LABEL_WIDTH$}{GAP}{line}", "");
    }
    text
}

/// Returns the block of a line for a bar that reaches `height` lines above the bottom of the line.
fn block(height: f64) -> char {
    let eighths = (8.0 * height).round().clamp(0.0, 8.0);
    BLOCKS[eighths as usize]
}

/// Returns the two lines of the axis: a mark at the budget, and the budgets at both ends.
fn axis(report: &Report, n_points: usize) -> [String; 2] {
    let Report { floor_bytes, resident_bytes, budget_bytes, .. } = *report;
    let room_bytes = resident_bytes - floor_bytes;
    let part = if room_bytes == 0 {
        0.0
    } else {
        (budget_bytes.min(resident_bytes) - floor_bytes) as f64 / room_bytes as f64
    };
    let mark_at = (part * (n_points - 1) as f64).round() as usize;
    let mark = if budget_bytes > resident_bytes { '▶' } else { '▲' };
    let name = Bytes(budget_bytes).to_string();
    // The label goes to the side of the mark that has room.
    let marked = if mark_at + 2 + name.chars().count() <= n_points {
        format!("{:mark_at$}{mark} {name}", "")
    } else {
        format!("{:>mark_at$}{mark}", format!("{name} "))
    };
    let (low, high) = (Bytes(floor_bytes).to_string(), Bytes(resident_bytes).to_string());
    let high_at = n_points.saturating_sub(low.chars().count());
    [marked, format!("{low}{high:>high_at$}")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_round_to_eighths() {
        assert_eq!([-1.0, 0.0, 0.13, 0.5, 1.0, 7.0].map(block), [' ', ' ', '▁', '▄', '█', '█']);
    }

    #[test]
    fn narrow_terminals_get_a_chart_of_minimum_width() {
        assert_eq!(n_points(0), POINTS_MIN);
        assert_eq!(n_points(80), 80 - 11);
    }
}
