//! `docs/api.md`, written from the routes' entries and the list of events.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;

use super::routes::{Answer, In, ROUTES, Route};
use super::{Value, document};
use crate::telemetry::journal::{Kind, Level, Pace};

const HEAD: &str = "\
# The control API

This page and [openapi.json](openapi.json) are generated from `dataplane/src/control/openapi/routes.rs` and from the types that are
answered. A running instance has the document of its version at `/v1/openapi.json`.

An instance answers HTTP + JSON on a Unix socket, `/run/softdpu/NAME.sock` unless `[control] socket` says otherwise:

```
curl --unix-socket /run/softdpu/edge-a.sock http://localhost/v1/status
```

The answers below are those of a real instance, shortened: lists to their first two, flows and figures as they were.

## Who may what

| | |
| --- | --- |
| ask (`GET`) | whoever may open the socket: its owner and its group. `socket_group = \"softdpu\"` in `[control]` names the group, `socket_mode` (\"0660\") its rights. Nobody else gets in: modes that let others in are refused. |
| change (`POST`) | root, and the user that the instance runs as, by the credentials that the kernel has of the client (`SO_PEERCRED`). Others get 403. |
| metrics on loopback | everybody on the host, where `[control] metrics` names an address; nothing else is served there. |

```
groupadd --system softdpu
usermod -a -G softdpu alice     # who is in it from the next login on
```

Giving the socket to a group takes CAP_CHOWN, or being in that group.

## What is common

- What is not done is answered with `{\"error\": …, \"help\": …}`: what is wrong, and what would be right.
- Parameters go into the query; where no body is described, none is taken. Parameters that are not known are refused, not passed over.
- Paths that do not exist are answered with 404, methods that a path does not have with 405 and `Allow`. A head of more than 16 KiB is
  answered with 431, without a body.
- 64 connections are served at a time, others wait. A connection may last 60 s, and be silent for 5 s before a request; one that
  follows events lasts as long as it reads.
- Fields may be added to any object: pass over what you do not know. What is there keeps its name and meaning.
- Text from the wire (host names) is in the answers as it came: escape it before you show it.

## Routes

";

fn route(page: &mut String, route: &Route) {
    writeln!(page, "### `{} {}`\n", route.method.to_uppercase(), route.path).unwrap();
    let who = if route.method == "get" { "" } else { " For root and the instance's own user." };
    writeln!(page, "{}.{who} {}\n", route.summary, route.text).unwrap();
    if !route.parameters.is_empty() {
        writeln!(page, "| parameter | in | what |\n| --- | --- | --- |").unwrap();
        for parameter in route.parameters {
            let place = match parameter.place {
                In::Query => "query",
                In::Path => "path",
                In::Header => "header",
            };
            let what = parameter.text.replace('|', "\\|");
            let range = range(&(parameter.schema)());
            writeln!(page, "| `{}` | {place} | {what}{range} |", parameter.name).unwrap();
        }
        writeln!(page).unwrap();
    }
    if let Some(body) = &route.body {
        writeln!(page, "The body is JSON:\n\n| field | what |\n| --- | --- |").unwrap();
        for (name, field) in (body.schema)()["properties"].as_object().unwrap() {
            let values = range(&field["items"]);
            writeln!(page, "| `{name}` | {}{values}{} |", field["description"].as_str().unwrap(), range(field))
                .unwrap();
        }
        writeln!(page).unwrap();
    }
    if !route.errors.is_empty() {
        writeln!(page, "| code | when |\n| --- | --- |").unwrap();
        for (code, when) in route.errors {
            writeln!(page, "| {code} | {when} |").unwrap();
        }
        writeln!(page).unwrap();
    }
    let post = if route.method == "get" { "" } else { "-X POST " };
    let body = route.body.as_ref().map_or(String::new(), |body| format!("--json '{}' ", body.example));
    let post = if body.is_empty() { post } else { "" };
    let stream = if matches!(route.answer, Answer::Events(_)) || !body.is_empty() { "-N " } else { "" };
    let quote = |ask: &str| {
        if ask.contains(['&', '?']) { format!("'http://localhost{ask}'") } else { format!("http://localhost{ask}") }
    };
    writeln!(
        page,
        "```\n$ curl -s {stream}{post}{body}--unix-socket /run/softdpu/edge-a.sock {}\n{}\n```\n",
        quote(route.ask),
        route.example.trim_end()
    )
    .unwrap();
}

/// What a schema says beyond its type.
fn range(schema: &Value) -> String {
    let mut parts = Vec::new();
    if let Some(values) = schema["enum"].as_array() {
        let shown: Vec<_> = values.iter().take(8).filter_map(Value::as_str).map(|v| format!("`{v}`")).collect();
        let more = values.len().saturating_sub(8);
        parts.push(format!(
            "{}{}",
            shown.join(", "),
            if more > 0 { format!(" and {more} more") } else { String::new() }
        ));
    }
    if let (Some(min), Some(max)) = (schema["minimum"].as_u64(), schema["maximum"].as_u64()) {
        let max = if max == u64::MAX { "2^64-1".to_owned() } else { max.to_string() };
        parts.push(format!("{min} to {max}"));
    }
    if schema["type"] == "boolean" {
        parts.push("`true` or `false`".into());
    }
    if !schema["default"].is_null() {
        parts.push(format!("default {}", schema["default"]));
    }
    if parts.is_empty() { String::new() } else { format!(" {}.", parts.join("; ")) }
}

fn events(page: &mut String) {
    let document = document();
    writeln!(page, "## Events\n").unwrap();
    writeln!(page, "Each is one object, in `data` of the stream and on a line of `softdpu events --json`:\n").unwrap();
    writeln!(page, "| field | what |\n| --- | --- |").unwrap();
    for (name, field) in document["components"]["schemas"]["Event"]["properties"].as_object().unwrap() {
        let what = field["description"].as_str().unwrap_or("One of the levels below.").replace('\n', " ");
        let what = if name == "kind" { "One of the codes below. More may be added." } else { &what };
        writeln!(page, "| `{name}` | {what} |").unwrap();
    }
    writeln!(page, "\n| kind | level | when, and what it is about |\n| --- | --- | --- |").unwrap();
    for kind in Kind::ALL {
        let level = match kind.level() {
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        let wish = if kind.pace() == Pace::OnWish { " On wish only." } else { "" };
        writeln!(page, "| `{kind}` | {level} | {}{wish} |", kind.help().replace('|', "\\|")).unwrap();
    }
    writeln!(
        page,
        "\n`softdpu events` follows them in a terminal, over restarts of the instance too:\n\n\
         ```\n$ softdpu events --since 10m --kind plan,intent,peer\n$ softdpu events --json | jq -c 'select(.level == \"error\")'\n```\n\n\
         In a script that must not miss anything, keep the last `id` and come back with it:\n\n\
         ```\n$ curl -sN -H 'Last-Event-ID: 1795392000123' --unix-socket /run/softdpu/edge-a.sock http://localhost/v1/events\n```"
    )
    .unwrap();
}

/// `SOFTDPU_WRITE_DOCS=1 cargo test -p softdpu --lib openapi` writes it anew.
#[test]
fn the_page_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api.md");
    let mut page = HEAD.to_owned();
    ROUTES.iter().for_each(|entry| route(&mut page, entry));
    events(&mut page);
    if std::env::var_os("SOFTDPU_WRITE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap_or_default() == page,
        "docs/api.md is out of date: see above this test how to write it"
    );
}
