//! Flows added up by class and host name.

use std::collections::BTreeMap;

use serde::Serialize;
use softdpu_testbed::status::Flow;

/// Flows of one class under one name, added up.
#[derive(Debug, Clone, Serialize)]
pub struct Class {
    pub class: String,
    pub host: String,
    pub flows: usize,
    pub packets: u64,
    pub bytes: u64,
}

/// Adds flows up by class and host name, largest first.
pub fn by_class(flows: &[Flow]) -> Vec<Class> {
    let mut classes: BTreeMap<(String, String), Class> = BTreeMap::new();
    for flow in flows {
        let host = flow.host.clone().unwrap_or_default();
        let class = classes.entry((flow.protocol.clone(), host.clone())).or_insert_with(|| Class {
            class: flow.protocol.clone(),
            host,
            flows: 0,
            packets: 0,
            bytes: 0,
        });
        class.flows += 1;
        class.packets += flow.packets;
        class.bytes += flow.bytes;
    }
    let mut all: Vec<Class> = classes.into_values().collect();
    all.sort_by_key(|class| std::cmp::Reverse(class.bytes));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use softdpu_testbed::status::flows;

    #[test]
    fn flows_add_up_by_class_and_name() {
        let flow = |protocol: &str, host: Option<&str>, bytes: u64| {
            json!({"l4": "tcp", "a": "10.1.0.2:4000", "b": "10.2.0.2:80", "protocol": protocol, "host": host,
                   "packets": 1, "bytes": bytes, "more": true})
        };
        let list = json!({"flows": [flow("http", Some("x"), 5), flow("dns", None, 9), flow("http", Some("x"), 6), 3]});
        let classes = by_class(&flows(&list));
        assert_eq!(classes.len(), 2);
        assert_eq!((classes[0].class.as_str(), classes[0].flows, classes[0].bytes), ("http", 2, 11));
    }
}
