//! Pieces of a manual page in roff's man macros.

/// The heading.
pub fn title(name: &str, section: u8, source: &str, manual: &str) -> String {
    // The apostrophe and the grave accent as such, not as quotes.
    format!(
        ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n.TH \"{}\" {section} \"\" \"{source}\" \"{manual}\"\n",
        escaped(name)
    )
}

/// Text as it is: no escapes, no hyphenation, no line that is a macro.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for (at, line) in text.split('\n').enumerate() {
        if at > 0 {
            out.push('\n');
        }
        if line.starts_with('.') || line.starts_with('\'') {
            out.push_str("\\&");
        }
        for c in line.chars() {
            match c {
                '\\' => out.push_str("\\e"),
                '-' => out.push_str("\\-"),
                '\'' => out.push_str("\\*(Aq"),
                '`' => out.push_str("\\(ga"),
                '~' => out.push_str("\\(ti"),
                '^' => out.push_str("\\(ha"),
                c => out.push(c),
            }
        }
    }
    out
}

/// Other characters by their number: not every formatter reads UTF-8.
pub fn ascii(page: &str) -> String {
    let named = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\[u{:04X}]", u32::from(c)) };
    page.chars().map(named).collect()
}

pub fn bold(text: &str) -> String {
    format!("\\fB{}\\fR", escaped(text))
}

/// Words between `grave accents` in bold.
pub fn words(text: &str) -> String {
    let parts = text.split('`').enumerate();
    let out: String = parts.map(|(at, part)| if at % 2 == 1 { bold(part) } else { escaped(part) }).collect();
    if out.starts_with("\\fB") { format!("\\&{out}") } else { out }
}

pub fn head(name: &str) -> String {
    if name.contains(' ') { format!(".SH \"{name}\"\n") } else { format!(".SH {name}\n") }
}

/// A term, ready made, and what it means.
pub fn item(term: &str, meaning: &str) -> String {
    format!(".TP\n{term}\n{}\n", words(meaning))
}

/// The sections of a verb's help: headings in capitals with a colon, and lines that stay lines.
pub fn sections(help: &str) -> String {
    let mut out = String::new();
    let mut open = false;
    for line in help.lines() {
        let name = line
            .strip_suffix(':')
            .filter(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == ' '));
        if let Some(name) = name {
            if open {
                out.push_str(".fi\n");
            }
            out.push_str(&head(name));
            out.push_str(".nf\n");
            open = true;
        } else if !line.trim().is_empty() {
            if !open {
                out.push_str(".SH NOTES\n.nf\n");
                open = true;
            }
            out.push_str(&escaped(line.strip_prefix("  ").unwrap_or(line)));
            out.push('\n');
        }
    }
    if open {
        out.push_str(".fi\n");
    }
    out
}

/// Every other page.
pub fn see_also(name: &str, section: u8, all: &[(String, u8)]) -> String {
    let others: Vec<String> = all
        .iter()
        .filter(|(other, of)| (other.as_str(), *of) != (name, section))
        .map(|(other, of)| format!("{}({of})", bold(other)))
        .collect();
    format!(".SH \"SEE ALSO\"\n{}\n", others.join(",\n"))
}
