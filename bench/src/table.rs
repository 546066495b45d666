//! Tables and medians.

use std::fmt::Display;

/// Prints a heading and the head of a table.
pub fn begin(heading: &str, method: &str, columns: &[&str]) {
    println!("\n## {heading}\n\n{method}\n");
    println!("| {} |", columns.join(" | "));
    println!("|{}", "---|".repeat(columns.len()));
}

/// Prints a row.
pub fn row(cells: &[&dyn Display]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.to_string()).collect();
    println!("| {} |", cells.join(" | "));
}

/// The median of some figures.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// The median of the ratios round by round, with their range: `0.81 (0.78 to 0.84)`.
pub fn ratio(ours: &[f64], bare: &[f64]) -> String {
    let ratios: Vec<f64> = ours.iter().zip(bare).map(|(ours, bare)| ours / bare).collect();
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    format!("{:.2} ({least:.2} to {most:.2})", median(&ratios))
}

/// The figure below which a share of sorted figures lies.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// The median of some figures with their range: `12 (11 to 15)`.
pub fn with_range(figures: &[f64], digits: usize) -> String {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figures.iter().copied().fold(0.0, f64::max);
    format!("{:.digits$} ({least:.digits$} to {most:.digits$})", median(figures))
}

/// A figure per second, without false digits.
pub fn per_second(figures: &[f64]) -> String {
    thousands(median(figures))
}

/// A number with thousands set apart.
pub fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
