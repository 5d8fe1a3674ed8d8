//! The dashboards in configs/grafana/ ask only for what there is, and for all of it.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Family, GROUPS, Kind};

/// Families that no dashboard shows, and why.
const LEFT_OUT: [(&str, &str); 10] = [
    ("build", "build_info says the same"),
    ("worker_inner_packets", "of overlays only; the flows within are in class_packets"),
    ("worker_l7_names_refused", "for finding faults, as the four below"),
    ("worker_l7_names_bad", ""),
    ("worker_l7_buffers_lost", ""),
    ("worker_l7_conflicts", ""),
    ("worker_l7_buffers", ""),
    ("rule_copied_packets", "of rules with `mirror` only; what the port sends is in port_tx_packets"),
    ("rule_copied_bytes", ""),
    ("rule_not_copied_packets", ""),
];

fn dashboards() -> Vec<(&'static str, Value)> {
    let read = |name: &'static str| {
        let path = format!("{}/../configs/grafana/{name}.json", env!("CARGO_MANIFEST_DIR"));
        (name, serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
    };
    vec![read("netops"), read("appdev")]
}

fn panels(board: &Value) -> impl Iterator<Item = &Value> {
    board["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row")
}

/// Queries, with what is written beside each line.
fn queries(board: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let of_panels = panels(board)
        .flat_map(|panel| panel["targets"].as_array().unwrap().iter())
        .map(|target| (text(&target["expr"]), text(&target["legendFormat"])));
    let variables = board["templating"]["list"].as_array().unwrap().iter().filter(|v| v["type"] == "query");
    of_panels.chain(variables.map(|v| (text(&v["query"]["query"]), String::new()))).collect()
}

/// Names with our prefix in a query, and what stands before each.
fn names(query: &str) -> Vec<(String, &str)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let at = query.match_indices("softdpu_").map(|(at, _)| at);
    let name = |at: usize| query[at..].chars().take_while(|c| is_name(*c)).collect::<String>();
    at.map(|at| (name(at), &query[..at])).collect()
}

fn families() -> BTreeMap<String, &'static Family> {
    let all = GROUPS.iter().flat_map(|(_, families)| families.iter());
    all.map(|family| (family.sample_name(), family)).collect()
}

#[test]
fn every_metric_asked_for_exists_and_is_asked_for_as_what_it_is() {
    let families = families();
    for (board, json) in dashboards() {
        for (query, legend) in queries(&json) {
            let mut labels: BTreeSet<&str> = BTreeSet::from(["instance"]);
            for (name, before) in names(&query) {
                let family = families.get(&name).unwrap_or_else(|| panic!("{board}: no metric {name}: {query}"));
                labels.extend(family.labels);
                let rated = before.ends_with("rate(") || before.ends_with("increase(");
                // What must stay zero is shown as it is.
                let absolute = name.contains("escaped") || query.starts_with("label_values");
                assert_eq!(
                    rated,
                    family.kind == Kind::Counter && !absolute,
                    "{board}: rate of a gauge, or none: {query}"
                );
            }
            for label in legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
                assert!(labels.contains(label), "{board}: no label {label} in {query}");
                let summed_away = query.contains("by (")
                    && !query.split("by (").skip(1).any(|by| by.split(')').next().is_some_and(|by| by.contains(label)));
                assert!(!summed_away, "{board}: {label} is summed away: {query}");
            }
            for by in query.split("by (").skip(1).filter_map(|rest| rest.split(')').next()) {
                for label in by.split(", ") {
                    assert!(labels.contains(label), "{board}: no label {label} in {query}");
                }
            }
            let open = |c: char, d: char| query.matches(c).count() == query.matches(d).count();
            assert!(open('(', ')') && open('{', '}') && open('[', ']'), "{board}: unbalanced: {query}");
        }
    }
}

#[test]
fn every_family_is_shown_or_left_out_with_a_reason() {
    let shown: BTreeSet<String> = dashboards()
        .iter()
        .flat_map(|(_, board)| queries(board))
        .flat_map(|(query, _)| names(&query).into_iter().map(|(name, _)| name).collect::<Vec<_>>())
        .collect();
    let left_out: BTreeSet<&str> = LEFT_OUT.iter().map(|(name, _)| *name).collect();
    for (name, family) in families() {
        let wanted = !left_out.contains(family.name);
        assert_eq!(shown.contains(&name), wanted, "{name}: shown, or in LEFT_OUT");
    }
    let known: BTreeSet<&str> = families().values().map(|family| family.name).collect();
    assert!(left_out.iter().all(|name| known.contains(name)));
}

#[test]
fn they_can_be_imported_and_every_panel_says_what_it_is() {
    for (board, json) in dashboards() {
        assert!(json["schemaVersion"].as_u64().unwrap() >= 36, "{board}");
        assert!(json.get("id").is_none_or(Value::is_null), "{board}: an id would overwrite another's dashboard");
        assert!(json["uid"].as_str().unwrap().starts_with("softdpu-") && json["title"].as_str().is_some());
        let variables = json["templating"]["list"].as_array().unwrap();
        let variable =
            |name: &str| variables.iter().find(|v| v["name"] == name).unwrap_or_else(|| panic!("{board}: {name}"));
        assert_eq!(variable("datasource")["type"], "datasource");
        assert_eq!(variable("datasource")["query"], "prometheus");
        assert_eq!(variable("instance")["multi"], true);
        let mut ids = BTreeSet::new();
        let mut taken: BTreeSet<(u64, u64)> = BTreeSet::new();
        for panel in json["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{board}: an id twice");
            let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(at("x") + at("w") <= 24, "{board}: {} is too wide", panel["title"]);
            for cell in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
                assert!(taken.insert(cell), "{board}: {} overlaps", panel["title"]);
            }
        }
        for panel in panels(&json) {
            let title = panel["title"].as_str().unwrap();
            assert!(
                panel["description"].as_str().is_some_and(|text| text.len() > 20),
                "{board}: {title} is not described"
            );
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{board}: {title}");
            for target in panel["targets"].as_array().unwrap() {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{board}: {title}");
                let expr = target["expr"].as_str().unwrap();
                assert!(expr.contains("instance=~\"$instance\""), "{board}: {title} is of all instances");
            }
        }
    }
}
