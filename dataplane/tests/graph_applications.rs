//! Rules over the operator's applications: whatever they ask for, nothing they guard leaves in clear before it is known.
#![allow(clippy::unwrap_used)]

mod support;

use softdpu::flow::Flow;
use softdpu::graph::DropReason;
use softdpu::worker::harness::Harness;
use support::{APPS, Keys, UPLINK, plain, udp4};

const CLIENT: [u8; 4] = [10, 1, 0, 2];
const SERVER: [u8; 4] = [10, 2, 0, 2];
/// Of no tunnel's rule but the one over applications.
const ELSEWHERE: [u8; 4] = [10, 3, 0, 2];

fn query(name: &str) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

fn application(edge: &Harness, flow: impl Fn(&Flow) -> bool) -> Option<&str> {
    let plan = edge.shared.plan.load_full();
    let number = edge.worker.flows.iter().find(|(_, f)| flow(f)).and_then(|(_, f)| plan.applications.marked(f.app));
    let place = usize::from(number?).checked_sub(1)?;
    edge.worker.counters.names().applications.get(place).map(String::as_str)
}

const APPLICATIONS: &str = r#"
[[application]]
name = "ads"
host = ["*.ads.example", "ad*.cdn.example"]
[[application]]
name = "names"
port = [53]
"#;

#[test]
fn a_flow_is_named_and_dropped_by_its_application() {
    let rules = "[[rule]]\nname = \"no-ads\"\napplication = [\"ads\"]\naction = \"drop\"\n";
    let mut edge = Harness::new(plain(&format!("{APPLICATIONS}{rules}"))).unwrap();
    for (n, (name, passes)) in
        [("x.ads.example", false), ("ad7.cdn.example", false), ("ads.example", true)].into_iter().enumerate()
    {
        let port = 40_000 + n as u16;
        let frame = udp4(CLIENT, SERVER, (port, 53), 64, &query(name));
        assert_eq!(edge.pass(APPS, &frame).len(), usize::from(passes), "{name}");
        let found = application(&edge, |flow| flow.initiator().port == port);
        assert_eq!(found, Some(if passes { "names" } else { "ads" }), "{name}");
    }
    assert_eq!(edge.dropped(DropReason::PolicyDrop), 2);
    let counters = &edge.worker.counters.applications;
    assert_eq!((counters[0].flows.get(), counters[1].flows.get()), (2, 1));
    let again = udp4(CLIENT, SERVER, (40_002, 53), 64, &query("ads.example"));
    edge.pass(APPS, &again);
    let counted = &edge.worker.counters.applications[1];
    assert_eq!((counted.packets.get(), counted.flows.get()), (2, 1));
    edge.assert_no_leak();
}

#[test]
fn a_flow_that_may_be_guarded_goes_sealed_until_it_is_known() {
    let keys = Keys::new();
    let rules = format!(
        "{APPLICATIONS}[[rule]]\nname = \"guarded\"\nfrom = [\"10.1.0.0/24\"]\nto = [\"10.3.0.0/24\"]\napplication = [\"ads\"]\nencrypt = \"to-b\"\n"
    );
    let mut edge = Harness::new(keys.policy('a', "", &rules)).unwrap();
    assert!(edge.shared.plan.load().guards_by_class, "nothing may be offloaded before it is known");
    let mut sealed = |port: u16, payload: &[u8]| {
        let out = edge.pass(APPS, &udp4(CLIENT, ELSEWHERE, (port, 53), 64, payload));
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].0, UPLINK);
        out[0].1[23] == 50
    };
    assert!(sealed(40_000, b"\0"), "what it carries is not told by this");
    assert!(sealed(40_000, &query("x.ads.example")));
    assert!(sealed(40_000, b"more"));
    assert!(!sealed(40_001, &query("shop.example")), "known to be something else");
}

#[test]
fn another_plans_numbers_are_not_taken_for_this_ones() {
    let mut edge = Harness::new(plain(APPLICATIONS)).unwrap();
    let frame = udp4(CLIENT, SERVER, (40_000, 53), 64, &query("x.ads.example"));
    edge.pass(APPS, &frame);
    assert_eq!(application(&edge, |_| true), Some("ads"));
    // The other way round, and a rule over the one that now has the number of the other.
    let turned = "[[application]]\nname = \"names\"\nport = [53]\n[[application]]\nname = \"ads\"\nhost = [\"*.ads.example\"]\n\
                  [[rule]]\nname = \"no-names\"\napplication = [\"names\"]\naction = \"drop\"\n";
    let plan = softdpu::plan::build(&plain(turned), 2).unwrap();
    edge.shared.plan.store(plan.into());
    assert_eq!(edge.pass(APPS, &frame).len(), 1, "it is still of `ads`");
    let (_, flow) = edge.worker.flows.iter().next().unwrap();
    assert_eq!(edge.shared.plan.load().applications.marked(flow.app), Some(2));
}
