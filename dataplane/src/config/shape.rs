//! The first check of a file: its shape against the schema. It reports every key, type, word and text that does not fit, and
//! takes the misfits out, so that what is left can be read and checked further in the same run.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeArray, DeInteger, DeTable, DeValue};

use super::format;
use super::problem::{Code, Problem};
use super::schema::{intent_json_schema, json_schema};
use super::suggest::{listed, nearest};

/// A node of a schema, taken apart once: files are walked along it, some with ten thousand tables of a kind.
pub struct Shape<'s> {
    node: &'s Value,
    /// What a value may be, in JSON Schema's words; empty where it may be anything.
    types: Vec<&'s str>,
    /// What a string may be; empty where it may be any.
    words: Vec<&'s str>,
    /// By name.
    keys: Vec<(&'s str, Shape<'s>)>,
    /// Those there must be, as places in `keys`.
    required: Vec<usize>,
    items: Option<Box<Shape<'s>>>,
    minimum: Option<i64>,
    maximum: Option<i64>,
    format: Option<&'s str>,
}

/// Of a policy.
pub fn policy() -> &'static Shape<'static> {
    static SCHEMA: LazyLock<Value> = LazyLock::new(json_schema);
    static SHAPE: LazyLock<Shape<'static>> = LazyLock::new(|| Shape::of(&SCHEMA));
    &SHAPE
}

/// Of an intent.
pub fn intent() -> &'static Shape<'static> {
    static SCHEMA: LazyLock<Value> = LazyLock::new(intent_json_schema);
    static SHAPE: LazyLock<Shape<'static>> = LazyLock::new(|| Shape::of(&SCHEMA));
    &SHAPE
}

/// Where in a file something is: names of tables, innermost first. Written with dots only where something is wrong.
#[derive(Clone, Copy)]
struct Place<'p>(Option<&'p Place<'p>>, &'p str);

impl Place<'_> {
    const TOP: Place<'static> = Place(None, "");

    fn is_top(&self) -> bool {
        self.0.is_none()
    }
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(outer) if !outer.is_top() => write!(f, "{outer}.{}", self.1),
            _ => f.write_str(self.1),
        }
    }
}

impl<'s> Shape<'s> {
    /// Of a schema without references.
    pub fn of(node: &'s Value) -> Self {
        let object = node.get("properties").and_then(Value::as_object);
        let mut keys: Vec<(&str, Self)> =
            object.into_iter().flatten().map(|(name, sub)| (name.as_str(), Self::of(sub))).collect();
        keys.sort_unstable_by_key(|(name, _)| *name);
        let required = node.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let required = required.filter_map(|name| keys.binary_search_by_key(&name, |(name, _)| *name).ok()).collect();
        let limit = |key: &str| node.get(key).and_then(Value::as_i64);
        let words = words_of(node);
        Self {
            types: types_of(node, &words),
            words,
            required,
            keys,
            items: node.get("items").map(|items| Box::new(Self::of(items))),
            minimum: limit("minimum"),
            maximum: limit("maximum"),
            format: node.get("format").and_then(Value::as_str),
            node,
        }
    }

    /// Walks a file's `table`. What does not fit is pushed to `problems` and taken out; whether it has all keys it must have.
    pub fn fits(&self, table: &mut DeTable<'_>, span: &Range<usize>, problems: &mut Vec<Problem>) -> bool {
        self.table(table, span, &Place::TOP, problems)
    }

    /// The same of one value, which stands under the key `name`; whether it fits.
    pub fn fits_value(&self, value: &mut Spanned<DeValue<'_>>, name: &str, problems: &mut Vec<Problem>) -> bool {
        self.value(value, &Place(Some(&Place::TOP), name), problems)
    }

    /// What stands under a key.
    pub fn key(&self, name: &str) -> Option<&Self> {
        self.find(name).map(|(_, _, shape)| shape)
    }

    fn find(&self, name: &str) -> Option<(usize, &'s str, &Self)> {
        let at = self.keys.binary_search_by_key(&name, |(name, _)| *name).ok()?;
        let (name, shape) = self.keys.get(at)?;
        Some((at, name, shape))
    }

    fn text(&self, key: &str) -> Option<&'s str> {
        self.node.get(key).and_then(Value::as_str)
    }

    fn table(
        &self,
        table: &mut DeTable<'_>,
        span: &Range<usize>,
        place: &Place<'_>,
        problems: &mut Vec<Problem>,
    ) -> bool {
        let mut whole = true;
        let mut misfits = Vec::new();
        let mut there = 0;
        for (key, value) in table.iter_mut() {
            let Some((at, name, shape)) = self.find(key.get_ref()) else {
                problems.push(self.unknown_key(key, value, place));
                misfits.push(key.get_ref().to_string());
                continue;
            };
            let required = self.required.contains(&at);
            there += usize::from(required);
            if !shape.value(value, &Place(Some(place), name), problems) {
                misfits.push(name.to_owned());
                whole &= !required;
            }
        }
        if there < self.required.len() {
            whole = false;
            let missing = self.required.iter().filter_map(|at| self.keys.get(*at));
            for (name, shape) in missing.filter(|(name, _)| !table.contains_key(*name)) {
                problems.push(self.missing_key(name, shape, span, place));
            }
        }
        for name in misfits {
            table.remove(name.as_str());
        }
        whole
    }

    /// One value; whether it fits.
    fn value(&self, value: &mut Spanned<DeValue<'_>>, place: &Place<'_>, problems: &mut Vec<Problem>) -> bool {
        let span = value.span();
        if !self.types.is_empty() && !self.types.contains(&type_of(value.get_ref())) {
            let place = place.to_string();
            let problem = wrong_type(value.get_ref(), self, span, &place);
            problems.push(Problem { key: place, ..problem });
            return false;
        }
        match value.get_mut() {
            DeValue::Table(table) => self.table(table, &span, place, problems),
            DeValue::Array(items) => {
                let Some(shape) = &self.items else { return true };
                let fits: Vec<bool> = items.iter_mut().map(|item| shape.value(item, place, problems)).collect();
                if fits.contains(&false) {
                    let mut fits = fits.into_iter();
                    let all = std::mem::replace(items, DeArray::new());
                    *items = all.into_iter().filter(|_| fits.next() == Some(true)).collect();
                    // A list of which nothing is left is not an empty list.
                    return !items.is_empty();
                }
                true
            }
            scalar => match self.scalar_problem(scalar, &span, place) {
                Some(problem) => {
                    problems.push(Problem { key: place.to_string(), ..problem });
                    false
                }
                None => true,
            },
        }
    }

    fn missing_key(&self, name: &str, shape: &Self, span: &Range<usize>, place: &Place<'_>) -> Problem {
        let what = if place.is_top() { format!("the {}", file_kind(self.node)) } else { format!("[{place}]") };
        let about = shape.text("description").unwrap_or("");
        let problem = Problem::error(
            Code::MissingKey,
            span.clone(),
            format!("{what} has no `{name}`"),
            format!("add `{name}`: {about}"),
        );
        Problem { key: format!("{place}.{name}"), ..problem.label(format!("`{name}` is missing")) }
    }

    fn unknown_key(
        &self,
        key: &Spanned<toml::de::DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
        place: &Place<'_>,
    ) -> Problem {
        let (name, whole) = (key.get_ref(), file_kind(self.node));
        let known = || self.keys.iter().map(|(name, _)| *name);
        let article = if whole.starts_with('i') { "an" } else { "a" };
        let what = if place.is_top() { format!("{article} {whole}") } else { format!("[{place}]") };
        let help = match nearest(name, known()) {
            Some(near) => format!("did you mean `{near}`?"),
            // The most common slip of all: the plural of a list of tables.
            None => format!("{what} knows {}", listed(known())),
        };
        let kind = if value.get_ref().is_table() { "table" } else { "key" };
        Problem::error(Code::UnknownKey, key.span(), format!("{what} has no {kind} `{name}`"), help).label("not known")
    }

    fn scalar_problem(&self, value: &DeValue<'_>, span: &Range<usize>, place: &Place<'_>) -> Option<Problem> {
        let bad = |code, message: String, help: String| Some(Problem::error(code, span.clone(), message, help));
        let text = match value {
            DeValue::String(s) => Cow::Borrowed(&**s),
            DeValue::Integer(i) => {
                let (min, max) = (self.minimum, self.maximum);
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
                Cow::Owned(number.map_or_else(|| i.to_string(), |n| n.to_string()))
            }
            _ => return None,
        };
        if !self.words.is_empty() && !self.words.contains(&&*text) {
            let quoted: Vec<String> = self.words.iter().map(|w| format!("\"{w}\"")).collect();
            let choices = listed(quoted.iter().map(String::as_str));
            let help = match nearest(&text, self.words.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"? It is {choices}"),
                None => format!("it is {choices}"),
            };
            return bad(Code::UnknownWord, format!("`{place}` cannot be \"{text}\""), help);
        }
        let wrong = format::check(self.format?, &text).err()?;
        bad(Code::ImpossibleValue, format!("`{place}`: {}", wrong.message), wrong.help)
    }
}

/// What the file is, by the schema's title.
fn file_kind(schema: &Value) -> &str {
    schema.get("title").and_then(Value::as_str).and_then(|title| title.strip_prefix("softdpu ")).unwrap_or("policy")
}

fn types_of<'s>(schema: &'s Value, words: &[&str]) -> Vec<&'s str> {
    match schema.get("type") {
        Some(Value::String(t)) => vec![t],
        Some(Value::Array(ts)) => ts.iter().filter_map(Value::as_str).collect(),
        _ if !words.is_empty() => vec!["string"],
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

fn wrong_type(value: &DeValue<'_>, shape: &Shape<'_>, span: Range<usize>, place: &str) -> Problem {
    let types = &shape.types[..];
    let wanted = listed(types.iter().map(|t| toml_type(t)));
    let key = place.rsplit('.').next().unwrap_or(place);
    let is_table_list = shape.items.as_ref().is_some_and(|items| items.types == ["object"]);
    let help = match (value, types) {
        (DeValue::Table(_), ["array"]) if is_table_list => format!("write it with two brackets: [[{place}]]"),
        (DeValue::Array(_), ["object"]) => format!("write it with one bracket: [{place}]"),
        (DeValue::String(s), ["array"]) => format!("write a list: {key} = [\"{s}\"]"),
        (DeValue::Integer(i), ["array"]) => format!("write a list: {key} = [{i}]"),
        (DeValue::Integer(i), ["string"]) => format!("put it in quotes: {key} = \"{i}\""),
        (DeValue::String(s), ["integer"]) if s.parse::<i64>().is_ok() => format!("without quotes: {key} = {s}"),
        (DeValue::String(s), ["boolean"]) if matches!(&**s, "true" | "false") => format!("without quotes: {key} = {s}"),
        _ if !shape.words.is_empty() => {
            let words: Vec<String> = shape.words.iter().map(|word| format!("\"{word}\"")).collect();
            format!("it is {}", listed(words.iter().map(String::as_str)))
        }
        _ => match shape.text("description") {
            Some(about) => format!("`{key}` is {wanted}: {about}"),
            None => format!("`{key}` is {wanted}"),
        },
    };
    let message = format!("`{place}` is {wanted}, not {}", toml_type(type_of(value)));
    Problem::error(Code::WrongType, span, message, help).label(format!("should be {wanted}"))
}

fn integer(i: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(i.as_str(), i.radix()).ok()
}
