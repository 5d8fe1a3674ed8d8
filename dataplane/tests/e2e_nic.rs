//! Tier `nic` where there is no device for it: veth has none. That it says so, and goes on without.
//!
//! ```text
//!   client            edge [softdpu, in clear]          server
//!   eth0 ────────── apps                uplink ────────── eth0
//!   10.1.0.2        10.1.0.1          10.2.0.1          10.2.0.2
//! ```
#![allow(clippy::unwrap_used)]

mod common;

use std::net::UdpSocket;

use common::{PATIENCE, binary};
use serde_json::Value;
use softdpu_testbed::{
    cleanup::{self, RunDir},
    edge::Edge,
    netns::NetNs,
    policy::{EdgeFiles, Side},
    process::{self, eventually},
};

fn policy(socket: &std::path::Path, offload: &str) -> String {
    format!(
        r#"name = "nic"
[offload]
{offload}
[control]
socket = "{}"
[[port]]
name = "apps"
interface = "apps"
checksum = "trust"
[[port]]
name = "uplink"
interface = "uplink"
checksum = "trust"
[[steer]]
name = "udp"
protocol = "udp"
[[rule]]
name = "banned"
ports = ["7000"]
protocol = "udp"
action = "drop"
[[rule]]
name = "all"
"#,
        socket.display()
    )
}

#[test]
fn a_veth_refuses_and_the_reason_is_told() {
    if !softdpu_testbed::is_root() {
        eprintln!("SKIPPED: needs root for network namespaces");
        return;
    }
    cleanup::sweep();
    let base = cleanup::unique("e2e-nic");
    let host = |name: &str| NetNs::new(&format!("{base}-{name}")).unwrap();
    let (client, server, dut) = (host("client"), host("server"), host("edge"));
    for (port, peer, net) in [("apps", &client, 1), ("uplink", &server, 2)] {
        dut.ip(&format!("link add {port} type veth peer name eth0 netns {}", peer.name())).unwrap();
        dut.ip(&format!("addr add 10.{net}.0.1/24 dev {port}")).unwrap();
        dut.ip(&format!("link set {port} up")).unwrap();
        peer.ip(&format!("addr add 10.{net}.0.2/24 dev eth0")).unwrap();
        peer.ip("link set eth0 up").unwrap();
        peer.ip(&format!("route add default via 10.{net}.0.1")).unwrap();
    }
    let folder = RunDir::new("e2e-nic").unwrap();
    let file = |end: &str| folder.file(format!("edge.{end}"));
    let files = EdgeFiles { side: Side::A, policy: file("toml"), socket: file("sock"), log: file("log") };

    std::fs::write(&files.policy, policy(&files.socket, "nic = \"require\"")).unwrap();
    let error = format!("{:#}", Edge::start(binary(), &dut, &files).unwrap_err());
    assert!(error.contains("port `apps`: its table was refused") && error.contains("no_device_offload"), "{error}");
    assert!(error.contains("`nic = \"require\"` in [offload]"), "{error}");

    for (offload, state, reason) in [
        ("", "refused", "no_device_offload"),
        ("nic = \"off\"", "off", "nic_off"),
        ("enabled = false", "off", "nic_off"),
    ] {
        std::fs::write(&files.policy, policy(&files.socket, offload)).unwrap();
        let edge = Edge::start(binary(), &dut, &files).unwrap();
        let tier = if offload.contains("false") { "worker" } else { "xdp" };
        let status = edge.status().unwrap();
        for port in 0..2 {
            let nic = &status["ports"][port]["nic"];
            assert_eq!((nic["state"].as_str(), nic["reason"].as_str()), (Some(state), Some(reason)), "{nic}");
            if state == "refused" {
                assert_eq!(nic["errno"], libc::EINVAL, "{nic}");
                assert!(nic["message"].as_str().unwrap().contains("Invalid argument"), "{nic}");
            }
        }
        let page = edge.verb(&["status"]).unwrap();
        assert!(page.contains(&format!("apps: device {state}")), "{page}");

        // What the rule drops the driver drops, or the worker, and says why the device does not.
        let ping =
            || process::run(client.command("ping").args(["-c", "1", "-W", "1", "10.1.0.1"]), PATIENCE).ok()?.ok().ok();
        eventually(PATIENCE, ping).unwrap();
        let sender = client.within(|| Ok(UdpSocket::bind("10.1.0.2:5001")?)).unwrap();
        let met: Option<Value> = eventually(PATIENCE, || {
            sender.send_to(b"banned", "10.2.0.2:7000").unwrap();
            let flows = edge.flows().unwrap();
            let banned = flows.as_array().unwrap().iter().find(|flow| flow["rule"] == "banned").cloned();
            banned.filter(|flow| flow["packets_ab"].as_u64() > Some(8) && flow["tier"] == tier)
        });
        let flow = met.unwrap_or_else(|| panic!("{}\n{}", edge.flows().unwrap(), edge.said()));
        assert_eq!((flow["tier"].as_str(), flow["nic_reason"].as_str()), (Some(tier), Some(reason)), "{flow}");
        let explained = edge.verb(&["explain", "10.2.0.2:7000"]).unwrap();
        assert!(explained.contains(&format!("not nic: {reason}. ")), "{explained}");
        assert!(edge.stop().unwrap().success());
    }
}
