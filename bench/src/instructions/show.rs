//! The comparison as a table, and in words.

use std::path::Path;

use comfy_table::{CellAlignment, Table};

use super::MOST;
use super::kept::{Compared, Verdict};
use crate::report::style;

/// Prints it. Whether nothing fails.
pub fn show(compared: &[Compared], list: &Path) -> bool {
    println!("{}", table(compared));
    let of =
        |verdict| compared.iter().filter(move |c| c.verdict == verdict).map(|c| c.name.as_str()).collect::<Vec<_>>();
    let (more, fewer, new, gone) = (of(Verdict::More), of(Verdict::Fewer), of(Verdict::New), of(Verdict::Gone));
    let accept = |names: &[&str]| {
        let only = if names.len() <= 3 { format!(" --only {}", names.join(",")) } else { String::new() };
        format!("`cargo xtask instructions --accept{only}`")
    };
    if !more.is_empty() {
        println!("More than {MOST} % more instructions than {} keeps: {}.", list.display(), more.join(", "));
        println!(
            "`valgrind --tool=callgrind` and `git bisect` find where they came from. Where they are worth it: {}",
            accept(&more)
        );
        println!("writes what is counted now into the list; commit that with the change, and say why in its message.");
    }
    if !new.is_empty() {
        println!("Not in {} yet: {}. {} puts them there.", list.display(), new.join(", "), accept(&new));
    }
    if !gone.is_empty() {
        println!(
            "In {} only: {}. `cargo xtask instructions --accept` takes them out.",
            list.display(),
            gone.join(", ")
        );
    }
    if !fewer.is_empty() {
        println!("More than {MOST} % fewer: {}. Accept to keep the gain: {}", fewer.join(", "), accept(&fewer));
    }
    let failed = compared.iter().filter(|c| c.verdict.fails()).count();
    // As test runners say it, for who counts.
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {word}. {} passed; {failed} failed; 0 ignored", compared.len() - failed);
    failed == 0
}

fn table(compared: &[Compared]) -> Table {
    let mut table = Table::new();
    style(&mut table).set_header(["instructions per operation", "kept", "now", "change", ""]);
    for column in 1..4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let number = |n: Option<f64>| n.map_or("-".to_owned(), |n| format!("{n:.2}"));
    for c in compared {
        let word = match c.verdict {
            Verdict::Same => "",
            Verdict::Fewer => "fewer",
            Verdict::More => "MORE",
            Verdict::New => "NEW",
            Verdict::Gone => "GONE",
        };
        let change = c.change().map_or(String::new(), |change| format!("{change:+.1} %"));
        table.add_row([c.name.clone(), number(c.kept), number(c.now), change, word.to_owned()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(kept: f64, now: f64, verdict: Verdict) -> Compared {
        Compared { name: "node/parse".into(), kept: Some(kept), now: Some(now), verdict }
    }

    #[test]
    fn a_case_with_more_fails_and_says_so() {
        let list = Path::new("list.json");
        assert!(show(&[compared(100.0, 100.0, Verdict::Same), compared(100.0, 90.0, Verdict::Fewer)], list));
        let worse = [compared(100.0, 110.0, Verdict::More)];
        assert!(!show(&worse, list));
        let text = table(&worse).to_string();
        assert!(text.contains("+10.0 %") && text.contains("MORE") && text.contains("node/parse"), "{text}");
    }
}
