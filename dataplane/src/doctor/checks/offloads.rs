//! What devices do to packets before or after softdpu: on the right side it is a help, on the wrong one it breaks them.

use crate::config::policy::Checksum;
use crate::doctor::fix::Change;
use crate::doctor::{Check, Found, Last, Port, Situation};
use crate::host::inventory::{Interface, Peer};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "peer-gro",
        title: "A veth takes frames that the driver redirects to it: its other end polls (GRO on, or a program there)",
        meaning: "Frames that the XDP program forwards to this port vanish without a counter, and its flows are refused the tier `xdp` (`no_transmit`).",
        remedy: "`ethtool -K PEER gro on`, in the peer's namespace.",
        run: peer_gro,
    },
    Check {
        id: "generic-gro",
        title: "In generic mode nothing merges packets before the program",
        meaning: "The generic hook comes after GRO: workers get merged packets larger than the MTU, which do not fit the way out or the peer's tunnel.",
        remedy: "`ethtool -K IF gro off`, or native mode.",
        run: generic_gro,
    },
    Check {
        id: "peer-tso",
        title: "In generic mode the other end of a veth sends packets of the MTU",
        meaning: "The peer leaves segments of up to 64 KiB to its device, and no device cuts them: oversize packets arrive. (Native XDP has the kernel switch this off by itself.)",
        remedy: "`ethtool -K PEER tso off gso off`, in the peer's namespace.",
        run: peer_tso,
    },
    Check {
        id: "lro",
        title: "The device merges no packets (LRO)",
        meaning: "Merged packets cannot be forwarded: what was joined for one receiver is larger than the next link takes. Most drivers refuse XDP while it is on.",
        remedy: "`ethtool -K IF lro off`.",
        run: lro,
    },
    Check {
        id: "peer-checksum",
        title: "Senders on the same host complete their checksums, or the policy has workers do it",
        meaning: "`checksum = \"trust\"` on an interface whose senders leave TCP and UDP checksums to a device that is not there: what is forwarded or sealed arrives with a wrong checksum and is thrown away.",
        remedy: "`checksum = \"auto\"` for the port, or `ethtool -K PEER tx off` at the senders.",
        run: peer_checksum,
    },
    Check {
        id: "vlan-tags",
        title: "VLAN tags are in the packet where the program looks",
        meaning: "The device takes the tag out of received packets and hands it over beside them, where an XDP program does not see it: tagged packets match the rules for untagged ones, and leave without their tag.",
        remedy: "`ethtool -K IF rxvlan off`; on a veth `ethtool -K PEER txvlan off` at the sender.",
        run: vlan_tags,
    },
];

/// The peer of a veth, where it can be seen.
fn peer(nic: &Interface) -> Option<&Peer> {
    nic.peer.as_ref().filter(|p| p.seen)
}

fn on(offloads: &std::collections::BTreeMap<String, bool>, name: &str) -> bool {
    offloads.get(name) == Some(&true)
}

/// What the peer is to change, or, where it cannot be reached, what somebody there has to type.
fn at_peer<'a>(finding: Last<'a>, nic: &Interface, name: &str, value: bool) -> Last<'a> {
    match peer(nic) {
        Some(peer) => finding.change(Change::offload(peer.namespace.as_deref(), &peer.name, name, value)),
        None => {
            let value = if value { "on" } else { "off" };
            finding.command(format!("ethtool -K PEER {name} {value} at the other end of {}", nic.name))
        }
    }
}

fn peer_gro(s: &Situation<'_>, found: &mut Found) {
    let offloads = s.policy.is_none_or(|p| p.offload.enabled);
    s.each_port(found, |port, nic, found| {
        let name = port.interface;
        match (nic.driver.as_str(), nic.xdp.has("ndo-xmit")) {
            ("veth", Some(true)) => found.ok(name, "the other end polls"),
            ("veth", Some(false)) if offloads => {
                let said = match peer(nic) {
                    Some(p) => format!("GRO is off at its other end {}, and no program is there", p.name),
                    None => "the other end does not poll".to_owned(),
                };
                at_peer(found.warn(name, said), nic, "gro", true);
            }
            ("veth", Some(false)) => found.not_applicable(name, "nothing is offloaded"),
            _ => found.not_applicable(name, "not a veth, or the kernel does not say"),
        }
    });
}

fn generic_gro(s: &Situation<'_>, found: &mut Found) {
    in_generic(s, found, |port, nic, found| {
        if on(&nic.offloads, "gro") {
            found.warn(port.interface, "GRO is on").change(Change::offload(None, port.interface, "gro", false));
        } else {
            found.ok(port.interface, "GRO is off");
        }
    });
}

fn peer_tso(s: &Situation<'_>, found: &mut Found) {
    in_generic(s, found, |port, nic, found| {
        let Some(peer) = peer(nic) else {
            found.not_applicable(port.interface, "not a veth, or its other end cannot be seen");
            return;
        };
        let merged: Vec<&str> = ["tso", "gso"].into_iter().filter(|n| on(&peer.offloads, n)).collect();
        if merged.is_empty() {
            found.ok(port.interface, "off at the other end");
            return;
        }
        let mut finding = found.warn(port.interface, format!("{} on at {}", merged.join(" and "), peer.name));
        for name in merged {
            finding = at_peer(finding, nic, name, false);
        }
    });
}

fn in_generic(s: &Situation<'_>, found: &mut Found, mut look: impl FnMut(&Port<'_>, &Interface, &mut Found)) {
    s.each_port(found, |port, nic, found| {
        if port.generic() {
            look(port, nic, found);
        } else {
            found.not_applicable(port.interface, "not in generic mode");
        }
    });
}

fn lro(s: &Situation<'_>, found: &mut Found) {
    s.each_port(found, |port, nic, found| match nic.offloads.get("lro") {
        Some(true) => {
            found.fail(port.interface, "on").change(Change::offload(None, port.interface, "lro", false));
        }
        Some(false) => found.ok(port.interface, "off"),
        None => found.not_applicable(port.interface, "the device does not say"),
    });
}

fn peer_checksum(s: &Situation<'_>, found: &mut Found) {
    s.each_port(found, |port, nic, found| {
        let name = port.interface;
        if port.checksum() != Checksum::Trust {
            found.not_applicable(name, "workers complete what is left out");
            return;
        }
        match peer(nic) {
            Some(peer) if on(&peer.offloads, "tx") => {
                let said = format!("{} leaves checksums out, and `checksum = \"trust\"`", peer.name);
                at_peer(found.fail(name, said), nic, "tx", false);
            }
            Some(peer) => found.ok(name, format!("{} completes them", peer.name)),
            None if nic.driver == "veth" => {
                at_peer(found.warn(name, "whether the other end completes them cannot be seen"), nic, "tx", false);
            }
            None => found.ok(name, "a wire is in between"),
        }
    });
}

fn vlan_tags(s: &Situation<'_>, found: &mut Found) {
    s.each_port(found, |port, nic, found| {
        let name = port.interface;
        if nic.driver == "veth" {
            // Without 802.1Q in the kernel nobody there can send tags by the device.
            found.not_applicable(name, "a veth takes tags as its peer sends them");
        } else if on(&nic.offloads, "rxvlan") {
            found.warn(name, "the device strips them").change(Change::offload(None, name, "rxvlan", false));
        } else {
            found.ok(name, "left in");
        }
    });
}
