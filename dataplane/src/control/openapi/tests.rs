#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::control::types::{Demoted, FlowInfo, PlanEntry, Rekeyed, ReloadReport, Status};
use crate::plan::contract::Contract;
use crate::telemetry::journal::Event;
use crate::telemetry::snapshot::Snapshot;

/// `SOFTDPU_WRITE_DOCS=1 cargo test -p softdpu --lib openapi` writes it anew.
#[test]
fn the_document_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    if std::env::var_os("SOFTDPU_WRITE_DOCS").is_some() {
        std::fs::write(path, text()).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap_or_default() == text(),
        "docs/openapi.json is out of date: a route or a type that is answered has changed. See above this test how to write it"
    );
}

/// Every `.route("…", get(…))` in the files beside.
fn routes_in_the_source() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/control");
    for file in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_none_or(|end| end != "rs") || file.ends_with("tests.rs") {
            continue;
        }
        let source = std::fs::read_to_string(&file).unwrap();
        for part in source.split(".route(").skip(1) {
            let Some((path, rest)) = part.trim_start().strip_prefix('"').and_then(|part| part.split_once('"')) else {
                panic!("{}: a route whose path is not written out: this test cannot see it", file.display());
            };
            // As far as the next one: methods may be chained.
            let handler = rest.split(".layer(").next().unwrap_or_default();
            for method in ["get", "post", "put", "patch", "delete"] {
                if handler.contains(&format!("{method}(")) {
                    found.insert((method.to_owned(), path.to_owned()));
                }
            }
        }
    }
    found
}

#[test]
fn every_route_has_an_entry() {
    let written: BTreeSet<_> = ROUTES.iter().map(|route| (route.method.to_owned(), route.path.to_owned())).collect();
    let served = routes_in_the_source();
    assert!(served.len() >= 13, "{served:?}");
    let missing: Vec<_> = served.difference(&written).collect();
    assert!(
        missing.is_empty(),
        "routes without an entry: {missing:?}.\n\
         Add to ROUTES in src/control/openapi/routes.rs:\n\
         \x20   Route {{ method: \"get\", path: \"/v1/…\", id: \"…\", summary: \"…\", text: \"…\", parameters: &[…], body: None,\n\
         \x20           answer: Answer::Json(json_of::<TYPE>), errors: &[(400, \"…\"), …], ask: \"/v1/…?…\",\n\
         \x20           example: include_str!(\"examples/ID.json\") }}\n\
         with every code the handler can answer; derive schemars::JsonSchema for TYPE; put an answer of a real instance into\n\
         src/control/openapi/examples/. Then: SOFTDPU_WRITE_DOCS=1 cargo test -p softdpu --lib openapi"
    );
    let gone: Vec<_> = written.difference(&served).collect();
    assert!(gone.is_empty(), "entries without a route: {gone:?}. Take them out of src/control/openapi/routes.rs");
    let ids: BTreeSet<_> = ROUTES.iter().map(|route| route.id).collect();
    assert_eq!(ids.len(), ROUTES.len(), "an id of its own for each");
}

#[test]
fn entries_are_whole() {
    for Route { path, method, parameters, body, errors, ask, text, summary, .. } in ROUTES {
        assert!(!summary.ends_with('.') && text.ends_with('.'), "{path}: a title, and sentences");
        let in_path: Vec<_> = parameters.iter().filter(|p| p.place == In::Path).map(|p| p.name).collect();
        let wanted: Vec<_> = path.split(['{', '}']).skip(1).step_by(2).collect();
        assert_eq!(in_path, wanted, "{path}: parameters of the path");
        assert!(errors.is_sorted_by_key(|(code, _)| *code), "{path}");
        let codes: Vec<u16> = errors.iter().map(|(code, _)| *code).collect();
        if *method == "post" {
            let all: &[u16] = if body.is_some() { &[400, 403] } else { &[400, 403, 408, 413] };
            assert!(all.iter().all(|code| codes.contains(code)), "{path}: what every change may answer");
        }
        if parameters.iter().any(|p| p.place != In::Path) {
            assert!(codes.contains(&400), "{path}: a parameter may be wrong");
        }
        let known: Vec<_> = parameters.iter().map(|p| p.name).collect();
        for pair in ask.split_once('?').map_or("", |(_, query)| query).split('&').filter(|pair| !pair.is_empty()) {
            assert!(known.contains(&pair.split('=').next().unwrap()), "{path}: the example asks for `{pair}`");
        }
    }
}

/// Of the type, and no field that is gone.
fn is_one<T: Serialize + DeserializeOwned>(id: &str, example: &str) {
    let value: Value = serde_json::from_str(example).unwrap();
    let typed: T = serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("example {id}: {error}"));
    fn within(part: &Value, whole: &Value, at: &str) {
        match (part, whole) {
            (Value::Object(part), Value::Object(whole)) => {
                for (key, value) in part {
                    let other = whole.get(key).unwrap_or_else(|| panic!("{at}.{key} is not answered any more"));
                    within(value, other, &format!("{at}.{key}"));
                }
            }
            (Value::Array(part), Value::Array(whole)) => {
                part.iter().zip(whole).for_each(|(part, whole)| within(part, whole, at));
            }
            _ => {}
        }
    }
    within(&value, &serde_json::to_value(typed).unwrap(), id);
}

#[test]
fn examples_are_of_their_types() {
    for Route { id, example, answer, .. } in ROUTES {
        match *id {
            "status" => is_one::<Status>(id, example),
            "counters" => is_one::<Snapshot>(id, example),
            "plan" => is_one::<Contract>(id, example),
            "flows" => is_one::<Vec<FlowInfo>>(id, example),
            "demote" => is_one::<Demoted>(id, example),
            "rekey" => is_one::<Rekeyed>(id, example),
            "reload" | "rollback" => is_one::<ReloadReport>(id, example),
            "stop" => is_one::<crate::control::watch::WatchStopped>(id, example),
            "history" => is_one::<Vec<PlanEntry>>(id, example),
            "events" => {
                let events: Vec<_> = example.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
                assert!(!events.is_empty());
                events.iter().for_each(|event| is_one::<Event>(id, event));
            }
            _ if matches!(answer, Answer::Json(_)) => drop(serde_json::from_str::<Value>(example).unwrap()),
            _ => assert!(!example.is_empty()),
        }
    }
}

#[test]
fn references_lead_somewhere() {
    let document = document();
    fn all<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| match value.as_str() {
                Some(text) if key == "$ref" => found.push(text),
                _ => all(value, found),
            }),
            Value::Array(list) => list.iter().for_each(|value| all(value, found)),
            _ => {}
        }
    }
    let mut references = Vec::new();
    all(&document, &mut references);
    assert!(references.len() > 20);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    assert!(document["components"]["schemas"]["Status"]["required"].as_array().unwrap().len() > 10);
}
