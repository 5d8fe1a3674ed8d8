//! `docs/config.md`, written from the schema, so that it says what the program takes.

use std::fmt::Write;

use serde_json::Value;

use super::schema::json_schema;

const HEAD: &str = "\
# The policy file

This page is generated from the schema; `softdpu schema` prints the same for editors. A commented example with every key is
`configs/policies/full.toml`. `softdpu check FILE` says everything that is wrong with a policy at once, with file, line, column
and remedy; nothing starts unless the whole policy is valid.

A policy is TOML. `[name]` is a table that stands once, `[[name]]` one that may stand often and whose order counts. Keys in
**bold** must be there. Relative paths start at the policy's folder.
";

/// The page, as Markdown.
pub fn markdown() -> String {
    page(HEAD, &json_schema())
}

/// The same of any kind of file, behind its own beginning.
pub fn page(head: &str, schema: &Value) -> String {
    let mut page = head.to_owned();
    for table in tables(schema) {
        // Writing to a String cannot fail.
        let _ = match (table.place.as_str(), table.list) {
            ("", _) => writeln!(page, "\n## At the top\n"),
            (place, true) => writeln!(page, "\n## `[[{place}]]`\n\n{}\n", table.about),
            (place, false) => writeln!(page, "\n## `[{place}]`\n\n{}\n", table.about),
        };
        if !table.keys.is_empty() {
            page.push_str("| key | value | meaning |\n| --- | --- | --- |\n");
        }
        for key in &table.keys {
            let name = if key.required { format!("**`{}`**", key.name) } else { format!("`{}`", key.name) };
            let _ = writeln!(page, "| {name} | {} | {} |", key.value, key.meaning.replace('|', "\\|"));
        }
    }
    page
}

/// A table of a kind of file.
#[derive(Debug)]
pub struct Table {
    /// As in `tunnel.out`; empty at the top.
    pub place: String,
    /// It may stand often.
    pub list: bool,
    pub about: String,
    pub keys: Vec<Key>,
}

/// A key with a plain value.
#[derive(Debug)]
pub struct Key {
    pub name: String,
    pub required: bool,
    pub value: String,
    pub meaning: String,
}

/// All tables of a schema, each before those within it.
pub fn tables(schema: &Value) -> Vec<Table> {
    let mut out = Vec::new();
    section(&mut out, "", false, schema);
    out
}

fn section(out: &mut Vec<Table>, place: &str, list: bool, table: &Value) {
    let Some(properties) = table.get("properties").and_then(Value::as_object) else { return };
    let text = |node: &Value| node.get("description").and_then(Value::as_str).unwrap_or("").replace('\n', " ");
    let required: Vec<&str> =
        table.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let (mut keys, mut inner) = (Vec::new(), Vec::new());
    for (key, node) in properties {
        let items = node.get("items").filter(|items| items.get("properties").is_some());
        if node.get("properties").is_some() || items.is_some() {
            let path = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
            inner.push((path, items.is_some(), items.unwrap_or(node)));
            continue;
        }
        keys.push(Key {
            name: key.clone(),
            required: required.contains(&key.as_str()),
            value: value(node),
            meaning: meaning(node, &text(node)),
        });
    }
    out.push(Table { place: place.to_owned(), list, about: text(table), keys });
    for (path, list, node) in inner {
        section(out, &path, list, node);
    }
}

/// What may be written, in short.
fn value(node: &Value) -> String {
    if let Some(items) = node.get("items") {
        return format!("list of {}", value(items));
    }
    let choices = words(node);
    if !choices.is_empty() {
        return choices.iter().map(|(word, _)| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ");
    }
    let limit = |key: &str| node.get(key).and_then(Value::as_i64);
    match (node.get("format").and_then(Value::as_str), limit("minimum"), limit("maximum")) {
        (_, Some(min), Some(max)) => format!("{min} to {max}"),
        (Some(format), ..) if !format.starts_with("uint") => format.replace('-', " "),
        _ => match node.get("type").and_then(Value::as_str) {
            Some("boolean") => "true, false".to_owned(),
            Some("integer") => "number".to_owned(),
            _ => "text".to_owned(),
        },
    }
}

/// The words of a choice and what they mean.
fn words(node: &Value) -> Vec<(&str, &str)> {
    let one_of = node.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    let alone = node.get("const").is_some().then_some(node);
    alone
        .into_iter()
        .chain(one_of)
        .filter_map(|n| Some((n.get("const")?.as_str()?, n.get("description").and_then(Value::as_str).unwrap_or(""))))
        .collect()
}

fn meaning(node: &Value, text: &str) -> String {
    let choices = words(node);
    if choices.len() < 2 {
        return text.to_owned();
    }
    let each: Vec<String> = choices.iter().map(|(word, about)| format!("`{word}`: {about}")).collect();
    format!("{text} {}", each.join(" "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    /// `SOFTDPU_WRITE_DOCS=1 cargo test -p softdpu config::reference` writes it anew.
    #[test]
    fn the_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config.md");
        let page = super::markdown();
        if std::env::var_os("SOFTDPU_WRITE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let on_disk = std::fs::read_to_string(path).unwrap();
        assert!(on_disk == page, "docs/config.md is out of date: see above this test how to write it");
    }

    #[test]
    fn the_page_names_every_table() {
        let page = super::markdown();
        for part in ["`[control]`", "`[flows.timeouts]`", "`[[port]]`", "`[tunnel.out]`", "**`spi`**", "`\"lz4\"`"] {
            assert!(page.contains(part), "no {part} in\n{page}");
        }
    }
}
