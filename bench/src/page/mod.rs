//! A run as a report to show: one HTML file that needs nothing else, and the same as JSON, CSV and Markdown.

mod answer;
mod export;
mod html;
mod ledger;
mod plots;
mod role;
mod stacks;
mod svg;
mod times;
mod told;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::report::Report;

pub use export::{csv, markdown, modelled_csv};
pub use html::html;

/// Names of the files.
pub const HTML: &str = "report.html";
/// A file's text, where there is something for it.
type Make = fn(&Report) -> Option<String>;
const FILES: [(&str, Make); 4] = [
    (HTML, |r| Some(html(r))),
    ("rounds.csv", |r| Some(csv(r))),
    // In a file of its own: not measured.
    ("modelled.csv", |r| (!r.modelled.is_empty()).then(|| modelled_csv(r))),
    ("summary.md", |r| Some(markdown(r))),
];

/// Writes `report.html`, `run.json`, `rounds.csv`, `summary.md`, and `modelled.csv` where something is modelled.
///
/// # Errors
/// The folder or a file cannot be written.
pub fn write(report: &Report, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    for (name, make) in FILES {
        let path = folder.join(name);
        if let Some(text) = make(report) {
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    report.write(&folder.join("run.json"))
}

/// Text as HTML and SVG have it.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Text with `names` in it, as HTML has it.
pub(crate) fn prose(text: &str) -> String {
    let parts: Vec<String> = text.split('`').map(escaped).collect();
    // One that is not closed is a letter like others.
    if parts.len().is_multiple_of(2) {
        return escaped(text);
    }
    let tag = |(n, part): (usize, String)| if n % 2 == 1 { format!("<code>{part}</code>") } else { part };
    parts.into_iter().enumerate().map(tag).collect()
}

/// A table; the first column names the rows. All cells are escaped here.
pub(crate) fn table(caption: &str, header: &[&str], rows: &[Vec<String>]) -> String {
    let mut out = format!("<div class=\"wide\"><table><caption>{}</caption><thead><tr>", escaped(caption));
    for cell in header {
        out += &format!("<th scope=\"col\">{}</th>", escaped(cell));
    }
    out += "</tr></thead><tbody>";
    for row in rows {
        out += "<tr>";
        for (n, cell) in row.iter().enumerate() {
            let text = prose(cell);
            match n {
                0 => out += &format!("<th scope=\"row\">{text}</th>"),
                // Figures stand under each other.
                _ if cell.starts_with(|c: char| c.is_ascii_digit() || "+-–×".contains(c)) => {
                    out += &format!("<td class=\"n\">{text}</td>");
                }
                _ => out += &format!("<td>{text}</td>"),
            }
        }
        out += "</tr>";
    }
    out + "</tbody></table></div>"
}

#[cfg(test)]
mod tests;
