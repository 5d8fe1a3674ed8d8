//! Long lists of host patterns in files of their own: one a line, `#` begins a comment.

use std::ops::Range;
use std::path::Path;

use super::host_glob::HostGlob;
use super::policy::Application;
use super::problem::{Code, Problem};

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 64 << 20;
/// Wrong lines of a file that are told one by one.
const TOLD: usize = 10;

/// Adds to each application the patterns of its file.
pub fn read_all(applications: &mut [Application]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for app in applications {
        let Some(path) = &app.hosts_file else { continue };
        let span = app.hosts_file_span.clone();
        match read(path) {
            Ok(text) => {
                let (patterns, wrong) = lines(&text, path, &span);
                if patterns.is_empty() && wrong.is_empty() && app.hosts.is_empty() {
                    // Without hosts it would be an application of any host.
                    let message = format!("{} has no host in it", path.display());
                    problems.push(Problem::error(
                        Code::Unreadable,
                        span,
                        message,
                        "write one a line, or leave `hosts_file` out",
                    ));
                }
                problems.extend(wrong);
                app.hosts = app.hosts.iter().cloned().chain(patterns).collect();
            }
            Err(cause) => {
                let message = format!("cannot read hosts file {}: {cause}", path.display());
                let help = if path.exists() {
                    "name a text file with one host a line"
                } else {
                    "write the file, or correct the path: relative ones start at the policy's folder"
                };
                problems.push(Problem::error(Code::Unreadable, span, message, help).label("this file"));
            }
        }
    }
    problems
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let meta = std::fs::metadata(path).map_err(|e| e.to_string())?;
    if !meta.is_file() {
        return Err("it is not a regular file".into());
    }
    if meta.len() > MAX_FILE {
        return Err(format!("it has {} bytes, {MAX_FILE} are the most", meta.len()));
    }
    std::fs::read(path).map_err(|e| e.to_string())
}

fn lines(text: &[u8], path: &Path, span: &Range<usize>) -> (Vec<HostGlob>, Vec<Problem>) {
    let mut patterns = Vec::new();
    let (mut problems, mut wrong) = (Vec::new(), 0);
    for (line, bytes) in (1..).zip(text.split(|b| *b == b'\n')) {
        let bytes = bytes.split(|b| *b == b'#').next().unwrap_or(bytes).trim_ascii();
        if bytes.is_empty() {
            continue;
        }
        let pattern = String::from_utf8_lossy(bytes);
        match pattern.parse::<HostGlob>() {
            Ok(pattern) => patterns.push(pattern),
            Err(bad) => {
                wrong += 1;
                if wrong <= TOLD {
                    let message = format!("{}:{line}: {}", path.display(), bad.message);
                    problems.push(
                        Problem::error(Code::ImpossibleValue, span.clone(), message, bad.help).label("this file"),
                    );
                }
            }
        }
    }
    if wrong > TOLD {
        let message = format!("{} has {} more lines that are no host patterns", path.display(), wrong - TOLD);
        problems.push(Problem::error(Code::ImpossibleValue, span.clone(), message, "correct those told of first"));
    }
    (patterns, problems)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn comments_blanks_and_wrong_lines() {
        let text = b"# all of pay\n*.pay.example  # below\r\n\n Shop.Example\na..b\n\xff\n";
        let (patterns, problems) = lines(text, Path::new("pay.txt"), &(3..7));
        assert_eq!(patterns.iter().map(HostGlob::as_str).collect::<Vec<_>>(), ["*.pay.example", "shop.example"]);
        let messages: Vec<&str> = problems.iter().map(|p| p.message.as_str()).collect();
        assert_eq!(messages.len(), 2);
        assert!(messages[0].starts_with("pay.txt:5: `a..b`") && messages[1].starts_with("pay.txt:6: "), "{messages:?}");
        assert_eq!(problems[0].span, 3..7);
    }

    #[test]
    fn a_file_of_nothing_but_mistakes_is_told_in_short() {
        let text = "-!-\n".repeat(1000);
        let (_, problems) = lines(text.as_bytes(), Path::new("x"), &(0..1));
        assert_eq!(problems.len(), TOLD + 1);
        assert!(problems[TOLD].message.contains("990 more lines"));
    }
}
