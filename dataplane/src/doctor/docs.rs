//! The table of checks in `docs/troubleshooting.md`, written from the tables of checks.

use std::fmt::Write;

use super::CHECKS;

// Before and after the generated part of the page.
#[cfg(test)]
const BEGIN: &str = "<!-- checks: generated, see dataplane/src/doctor/docs.rs -->\n";
#[cfg(test)]
const END: &str = "<!-- end of checks -->\n";

/// All checks, as Markdown.
pub fn markdown() -> String {
    let mut page = String::new();
    for family in CHECKS {
        // Writing to a String cannot fail.
        let _ = write!(
            page,
            "\n### {}\n\n| check | looks at | otherwise | remedy |\n| --- | --- | --- | --- |\n",
            family.name
        );
        for check in family.checks {
            let cell = |text: &str| text.replace('|', "\\|");
            let _ = writeln!(
                page,
                "| `{}` | {} | {} | {} |",
                check.id,
                cell(check.title),
                cell(check.meaning),
                cell(check.remedy)
            );
        }
    }
    page.push('\n');
    page
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// `SOFTDPU_WRITE_DOCS=1 cargo test -p softdpu doctor::docs` writes it anew.
    #[test]
    fn the_page_has_every_check() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/troubleshooting.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (head, rest) = page.split_once(BEGIN).unwrap();
        let (_, tail) = rest.split_once(END).unwrap();
        let wanted = format!("{head}{BEGIN}{}{END}{tail}", markdown());
        if std::env::var_os("SOFTDPU_WRITE_DOCS").is_some() {
            std::fs::write(path, &wanted).unwrap();
            return;
        }
        assert!(page == wanted, "docs/troubleshooting.md is out of date: see above this test how to write it");
    }

    #[test]
    fn ids_are_unique_and_everything_is_said() {
        let all: Vec<_> = CHECKS.iter().flat_map(|f| f.checks).collect();
        for (at, check) in all.iter().enumerate() {
            assert!(all[..at].iter().all(|c| c.id != check.id), "{} twice", check.id);
            assert!(!check.title.is_empty() && !check.meaning.is_empty() && !check.remedy.is_empty(), "{}", check.id);
            assert!(check.id.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", check.id);
        }
        assert!(all.len() > 30);
    }
}
