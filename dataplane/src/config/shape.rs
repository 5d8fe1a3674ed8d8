//! The first check of a file: its shape against the schema. It reports every key, type, word and text that does not fit, and
//! takes the misfits out, so that what is left can be read and checked further in the same run.

use std::ops::Range;

use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeArray, DeInteger, DeTable, DeValue};

use super::format;
use super::problem::{Code, Problem};
use super::suggest::{listed, nearest};

/// Walks `table` along `schema`. What does not fit is pushed to `problems` and left out of the result; `None` when the table
/// lacks a key it must have.
pub fn table<'i>(
    table: DeTable<'i>,
    span: &Range<usize>,
    schema: &Value,
    place: &str,
    problems: &mut Vec<Problem>,
) -> Option<DeTable<'i>> {
    let empty = Map::new();
    let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let mut whole = true;
    let mut seen = Vec::new();
    let mut out = DeTable::new();
    for (key, value) in table {
        let name = key.get_ref().to_string();
        let Some(sub) = known.get(&name) else {
            problems.push(unknown_key(&key, &value, known, place, file_kind(schema)));
            continue;
        };
        let inner = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
        seen.push(name);
        if let Some(value) = fit(value, sub, &inner, problems) {
            out.insert(key, value);
        } else {
            whole &= !is_required(schema, seen.last().map_or("", String::as_str));
        }
    }
    for name in required(schema).filter(|n| !seen.iter().any(|s| s == n)) {
        whole = false;
        let what = if place.is_empty() { format!("the {}", file_kind(schema)) } else { format!("[{place}]") };
        let about = known.get(name).and_then(|s| s.get("description")).and_then(Value::as_str).unwrap_or("");
        let problem = Problem::error(
            Code::MissingKey,
            span.clone(),
            format!("{what} has no `{name}`"),
            format!("add `{name}`: {about}"),
        );
        problems.push(Problem { key: format!("{place}.{name}"), ..problem.label(format!("`{name}` is missing")) });
    }
    whole.then_some(out)
}

/// What the file is, by the schema's title.
fn file_kind(schema: &Value) -> &str {
    schema.get("title").and_then(Value::as_str).and_then(|title| title.strip_prefix("softdpu ")).unwrap_or("policy")
}

fn required(schema: &Value) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn is_required(schema: &Value, name: &str) -> bool {
    required(schema).any(|n| n == name)
}

fn unknown_key(
    key: &Spanned<toml::de::DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
    known: &Map<String, Value>,
    place: &str,
    whole: &str,
) -> Problem {
    let name = key.get_ref();
    let article = if whole.starts_with('i') { "an" } else { "a" };
    let what = if place.is_empty() { format!("{article} {whole}") } else { format!("[{place}]") };
    let help = match nearest(name, known.keys().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        // The most common slip of all: the plural of a list of tables.
        None => format!("{what} knows {}", listed(known.keys().map(String::as_str))),
    };
    let kind = if value.get_ref().is_table() { "table" } else { "key" };
    Problem::error(Code::UnknownKey, key.span(), format!("{what} has no {kind} `{name}`"), help).label("not known")
}

/// One value against its schema node.
pub fn fit<'i>(
    value: Spanned<DeValue<'i>>,
    schema: &Value,
    place: &str,
    problems: &mut Vec<Problem>,
) -> Option<Spanned<DeValue<'i>>> {
    let span = value.span();
    let value = value.into_inner();
    let types = types_of(schema);
    let given = type_of(&value);
    if !types.is_empty() && !types.contains(&given) {
        problems.push(Problem { key: place.to_owned(), ..wrong_type(&value, &types, schema, span, place) });
        return None;
    }
    let value = match value {
        DeValue::Table(t) => DeValue::Table(table(t, &span, schema, place, problems)?),
        DeValue::Array(items) => {
            let sub = schema.get("items").unwrap_or(&Value::Null);
            let given = items.len();
            let fitting: DeArray<'i> = items.into_iter().filter_map(|item| fit(item, sub, place, problems)).collect();
            // A list of which nothing is left is not an empty list.
            if given > 0 && fitting.is_empty() {
                return None;
            }
            DeValue::Array(fitting)
        }
        scalar => {
            if let Some(problem) = scalar_problem(&scalar, schema, &span, place) {
                problems.push(Problem { key: place.to_owned(), ..problem });
                return None;
            }
            scalar
        }
    };
    Some(Spanned::new(span, value))
}

fn types_of(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(t)) => vec![t],
        Some(Value::Array(ts)) => ts.iter().filter_map(Value::as_str).collect(),
        _ if !words_of(schema).is_empty() => vec!["string"],
        _ => Vec::new(),
    }
}

/// The words a string may be, empty when it may be any.
fn words_of(schema: &Value) -> Vec<&str> {
    let list = |key: &str| schema.get(key).and_then(Value::as_array).into_iter().flatten();
    let mut words: Vec<&str> = list("enum").filter_map(Value::as_str).collect();
    words.extend(schema.get("const").and_then(Value::as_str));
    for choice in list("oneOf") {
        words.extend(words_of(choice));
    }
    words
}

fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "string",
        DeValue::Integer(_) => "integer",
        DeValue::Float(_) => "number",
        DeValue::Boolean(_) => "boolean",
        DeValue::Datetime(_) => "date",
        DeValue::Array(_) => "array",
        DeValue::Table(_) => "object",
    }
}

/// The type in the words of TOML.
fn toml_type(t: &str) -> &str {
    match t {
        "integer" => "a whole number",
        "number" => "a number with a fraction",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a table",
        "date" => "a date",
        _ => "a string",
    }
}

fn wrong_type(value: &DeValue<'_>, types: &[&str], schema: &Value, span: Range<usize>, place: &str) -> Problem {
    let wanted = listed(types.iter().map(|t| toml_type(t)));
    let key = place.rsplit('.').next().unwrap_or(place);
    let is_table_list = schema.get("items").and_then(|i| i.get("type")).is_some_and(|t| t == "object");
    let help = match (value, types) {
        (DeValue::Table(_), ["array"]) if is_table_list => format!("write it with two brackets: [[{place}]]"),
        (DeValue::Array(_), ["object"]) => format!("write it with one bracket: [{place}]"),
        (DeValue::String(s), ["array"]) => format!("write a list: {key} = [\"{s}\"]"),
        (DeValue::Integer(i), ["array"]) => format!("write a list: {key} = [{i}]"),
        (DeValue::Integer(i), ["string"]) => format!("put it in quotes: {key} = \"{i}\""),
        (DeValue::String(s), ["integer"]) if s.parse::<i64>().is_ok() => format!("without quotes: {key} = {s}"),
        (DeValue::String(s), ["boolean"]) if matches!(&**s, "true" | "false") => format!("without quotes: {key} = {s}"),
        _ if !words_of(schema).is_empty() => {
            let words: Vec<String> = words_of(schema).iter().map(|word| format!("\"{word}\"")).collect();
            format!("it is {}", listed(words.iter().map(String::as_str)))
        }
        _ => match schema.get("description").and_then(Value::as_str) {
            Some(about) => format!("`{key}` is {wanted}: {about}"),
            None => format!("`{key}` is {wanted}"),
        },
    };
    let message = format!("`{place}` is {wanted}, not {}", toml_type(type_of(value)));
    Problem::error(Code::WrongType, span, message, help).label(format!("should be {wanted}"))
}

fn scalar_problem(value: &DeValue<'_>, schema: &Value, span: &Range<usize>, place: &str) -> Option<Problem> {
    let bad = |code, message: String, help: String| Some(Problem::error(code, span.clone(), message, help));
    let text = match value {
        DeValue::String(s) => s.to_string(),
        DeValue::Integer(i) => {
            let limit = |key: &str| schema.get(key).and_then(Value::as_i64);
            let (min, max) = (limit("minimum"), limit("maximum"));
            let number = integer(i);
            let fits = number.is_some_and(|n| min.is_none_or(|m| n >= m) && max.is_none_or(|m| n <= m));
            if !fits && (number.is_none() || min.is_some() || max.is_some()) {
                let help = match (min, max) {
                    (Some(min), Some(max)) => format!("from {min} to {max}"),
                    (Some(min), None) => format!("at least {min}"),
                    _ => "a smaller number".to_owned(),
                };
                return bad(Code::ImpossibleValue, format!("`{place}` cannot be {i}"), help);
            }
            number.map_or_else(|| i.to_string(), |n| n.to_string())
        }
        _ => return None,
    };
    let words = words_of(schema);
    if !words.is_empty() && !words.contains(&text.as_str()) {
        let quoted: Vec<String> = words.iter().map(|w| format!("\"{w}\"")).collect();
        let choices = listed(quoted.iter().map(String::as_str));
        let help = match nearest(&text, words.iter().copied()) {
            Some(near) => format!("did you mean \"{near}\"? It is {choices}"),
            None => format!("it is {choices}"),
        };
        return bad(Code::UnknownWord, format!("`{place}` cannot be \"{text}\""), help);
    }
    let format = schema.get("format").and_then(Value::as_str)?;
    let wrong = format::check(format, &text).err()?;
    bad(Code::ImpossibleValue, format!("`{place}`: {}", wrong.message), wrong.help)
}

fn integer(i: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(i.as_str(), i.radix()).ok()
}
