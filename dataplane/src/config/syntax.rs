//! What is wrong with a text that is no TOML, in words for people.

use toml::de::Error;

use super::problem::{Code, Problem};

/// Most faults of one text that are told of: what stands behind the first is often not broken, but misunderstood.
const MOST: usize = 4;

/// The parser's errors about a text, in its order.
pub fn problems(text: &str, errors: &[Error]) -> Vec<Problem> {
    if let Some(problem) = errors.iter().find(|error| error.message().contains("unclosed")).and_then(|_| {
        let first = errors.iter().filter_map(Error::span).map(|span| span.start).min()?;
        unclosed(text, first)
    }) {
        return vec![problem];
    }
    errors.iter().take(MOST).map(|error| no_comma(text, error).unwrap_or_else(|| problem(error))).collect()
}

/// The list or table that was open where the first error is.
fn unclosed(text: &str, first: usize) -> Option<Problem> {
    let before = text.get(..first)?;
    let at = before.rfind(['[', '{'])?;
    let (what, end) = if before[at..].starts_with('[') { ("list", "]") } else { ("table", "}") };
    let message = format!("the {what} that begins here does not end");
    Some(Problem::error(Code::Syntax, at..at + 1, message, format!("write `{end}` behind its last value")))
}

/// Numbers with nothing but space between them are taken for a string without quotes.
fn no_comma(text: &str, error: &Error) -> Option<Problem> {
    let span = error.span()?;
    let word = text.get(span.clone())?;
    let numbers = word.contains(' ') && word.chars().all(|c| c.is_ascii_digit() || c == ' ');
    let help = "separate the values of a list with commas: [80, 443]";
    numbers.then(|| Problem::error(Code::Syntax, span, "values without a comma between them", help))
}

/// One error.
pub fn problem(error: &Error) -> Problem {
    let said = error.message().trim().replace('\n', ", ");
    let (message, help) = told(&said);
    Problem::error(Code::Syntax, error.span().unwrap_or(0..0), message.unwrap_or(&said), help)
}

/// What the parser says; what to say instead, where that is hard to understand, and the remedy.
const TELL: &[(&str, Option<&str>, &str)] = &[
    ("duplicate key", None, "give each key once per table; a list of tables has two brackets, as in [[port]]"),
    (
        "leading zero",
        Some("a number does not begin with a zero"),
        "leave it out; octal digits are a string, as in \"0660\"",
    ),
    (
        "invalid float",
        Some("neither a string nor a number: words are in quotes"),
        "write key = value, with strings in quotes: name = \"edge-a\"",
    ),
    (
        "invalid boolean",
        Some("neither a string nor true or false: words are in quotes"),
        "write key = value, with strings in quotes: name = \"edge-a\"",
    ),
    ("missing value", None, "write key = value, with strings in quotes: name = \"edge-a\""),
    ("key with no value", None, "write key = value, with strings in quotes: name = \"edge-a\""),
    ("unquoted key", None, "keys are letters, digits, `-` and `_`, then `=`: name = \"edge-a\""),
    ("missing comma", None, "separate the values of a list with commas: [80, 443]"),
    ("escaped value", None, "write \\\\ for a backslash, or put the string between apostrophes: 'C:\\path'"),
    ("multi-line", None, "a string that begins with \"\"\" ends with \"\"\""),
    ("visible characters", Some("a string with a control character"), "write it as an escape: \\t, \\u0001"),
    ("string values must be quoted", None, "write key = value, with strings in quotes: name = \"edge-a\""),
    ("basic string", None, "a string ends with the quote it began with, on the same line"),
    ("literal string", None, "a string ends with the quote it began with, on the same line"),
    (
        "recursion",
        Some("nested too deep"),
        "lists and tables within each other are at most 80 deep: close the brackets",
    ),
    ("number", None, "write digits: 0x and hexadecimal ones, 1_000_000, 8000"),
    ("date", Some("neither a number nor a date"), "put it in quotes if it is text: \"2026-01-31\""),
    (
        "unexpected key or value",
        Some("something behind the value"),
        "one key = value per line; what is to be no value begins with #",
    ),
    ("unexpected `=`", None, "a list holds values only; close it with `]` before the next key"),
];

fn told(said: &str) -> (Option<&'static str>, &'static str) {
    let found = TELL.iter().find(|(part, ..)| said.contains(part));
    found.map_or((None, "see https://toml.io for how TOML is written"), |(_, message, help)| (*message, *help))
}
