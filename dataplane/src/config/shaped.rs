//! Files beside policy and intents that are read the same way: shape against the schema, everything wrong said at once.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::problem::{Code, Problem, Source};
use super::schema::json_schema_of;
use super::shape::Shape;
use super::syntax;

/// Longest file that is read, in bytes.
const MAX_FILE: usize = 4 << 20;

/// The file as its type has it, as far as it fits; what does not is pushed to `problems`.
pub fn read<T: JsonSchema + DeserializeOwned>(source: &Source, problems: &mut Vec<Problem>) -> Option<T> {
    let text = &source.text;
    if text.len() > MAX_FILE {
        let message = format!("{} has {} bytes", source.name, text.len());
        problems.push(Problem::error(Code::Unreadable, 0..0, message, format!("such a file has at most {MAX_FILE}")));
        return None;
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        problems.extend(syntax::problems(text, &errors));
        return None;
    }
    let span = table.span();
    let mut table = table.into_inner();
    if !Shape::of(&json_schema_of::<T>()).fits(&mut table, &span, problems) {
        return None;
    }
    match T::deserialize(ValueDeserializer::from(toml::Spanned::new(span, DeValue::Table(table)))) {
        Ok(file) => Some(file),
        Err(e) => {
            problems.push(syntax::problem(&e));
            None
        }
    }
}
