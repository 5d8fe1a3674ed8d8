//! Interfaces: netlink for what they are, ethtool for how they are set, /sys and /proc for the rest.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use rtnetlink::Handle;

use super::{cpu_list, number, text};
use crate::host::ethtool::Ethtool;
use crate::host::inventory::{Interface, Irq, Napi, Peer, Queues, Xdp, XdpProgram};
use crate::host::{netns, xdp_features};
use crate::io::steer;

/// `NETDEV_XDP_ACT_*` of include/uapi/linux/netdev.h, from bit 0.
const XDP_FEATURES: [&str; 7] = ["basic", "redirect", "ndo-xmit", "xsk-zerocopy", "hw-offload", "rx-sg", "ndo-xmit-sg"];

/// Settings of one interface, by family and name.
const SYSCTLS: [(&str, &str); 4] =
    [("ipv4", "rp_filter"), ("ipv4", "forwarding"), ("ipv4", "accept_local"), ("ipv6", "forwarding")];

/// Most namespaces that are searched for the other ends of veths.
const MAX_NAMESPACES: usize = 1024;

/// What netlink says of a link.
#[derive(Default)]
struct Link {
    index: u32,
    name: String,
    mac: Option<String>,
    mtu: u32,
    kind: Option<InfoKind>,
    up: bool,
    running: bool,
    /// `IFLA_LINK`: of a veth the other end, of a VLAN what it sits on.
    link: Option<u32>,
    /// The namespace that `link` is in, if it is another.
    link_netns: Option<i32>,
    controller: Option<u32>,
    rx_queues: Option<u32>,
    parent: Option<String>,
    xdp: Option<(u32, &'static str)>,
}

/// All interfaces of the calling thread's namespace.
pub fn all(notes: &mut Vec<String>) -> Result<Vec<Interface>> {
    let (links, spaces) = ask()?;
    let ethtool = Ethtool::open()?;
    let interrupts = std::fs::read_to_string("/proc/interrupts").unwrap_or_default();
    // /sys of another namespace would be about other devices of these names.
    let sys = netns::sys_is_ours();
    let mut interfaces = Vec::with_capacity(links.len());
    for link in &links {
        let mut interface = about(link, &ethtool, &interrupts, sys);
        let upper = links.iter().filter(|l| {
            (l.link == Some(link.index) && l.link_netns.is_none() && l.kind != Some(InfoKind::Veth))
                || l.controller == Some(link.index)
        });
        interface.upper = upper.map(|l| l.name.clone()).collect();
        if link.kind == Some(InfoKind::Veth) {
            interface.peer = link.link.map(|index| peer(index, link, &links, &spaces, &ethtool));
        }
        interfaces.push(interface);
    }
    for interface in interfaces.iter().filter(|i| i.peer.as_ref().is_some_and(|p| !p.seen)) {
        notes.push(format!("{}: the other end is in a namespace that cannot be entered from here", interface.name));
    }
    Ok(interfaces)
}

fn about(link: &Link, ethtool: &Ethtool, interrupts: &str, sys: bool) -> Interface {
    let name = link.name.as_str();
    let driver = ethtool.driver(name).unwrap_or_default();
    let some = |text: String| Some(text).filter(|t| !t.is_empty() && t != "N/A");
    let features = xdp_features::of(link.index).ok().map(|f| {
        let set = XDP_FEATURES.iter().enumerate().filter(|(bit, _)| f.0 >> bit & 1 == 1);
        set.map(|(_, name)| (*name).to_owned()).collect()
    });
    let queues = ethtool.queues(name).unwrap_or_else(|_| {
        let receive = link.rx_queues.unwrap_or(1).max(1);
        Queues { receive, ..Queues::default() }
    });
    let of_interface = |(family, key): &(&str, &str)| {
        // Names with a dot are one directory.
        let value = text(&format!("/proc/sys/net/{family}/conf/{name}/{key}"))?;
        Some((format!("{family}.{key}"), value))
    };
    let napi = |file: &str| sys.then(|| number::<u64>(&format!("/sys/class/net/{name}/{file}"))).flatten();
    let numa = sys.then(|| number::<i32>(&format!("/sys/class/net/{name}/device/numa_node"))).flatten();
    Interface {
        name: name.to_owned(),
        index: link.index,
        mac: link.mac.clone(),
        kind: link.kind.as_ref().map(ToString::to_string),
        driver_version: some(driver.version),
        firmware: some(driver.firmware),
        bus: some(driver.bus.clone()).or_else(|| link.parent.clone()),
        numa_node: numa.and_then(|n| u32::try_from(n).ok()),
        speed_mbps: ethtool.speed(name),
        mtu: link.mtu,
        up: link.up,
        running: link.running,
        queues,
        rings: ethtool.rings(name).ok().filter(|r| r.max_rx > 0),
        rss: ethtool.rss(name).ok().filter(|r| !r.indirection.is_empty()),
        xdp: Xdp { features, attached: link.xdp.map(|(id, mode)| program(link.index, id, mode)) },
        offloads: ethtool.offloads(name),
        irqs: irqs(interrupts, name, &driver.bus),
        napi: Napi {
            defer_hard_irqs: napi("napi_defer_hard_irqs"),
            gro_flush_timeout_ns: napi("gro_flush_timeout"),
            threaded: napi("threaded").map(|t| t != 0),
        },
        sysctl: SYSCTLS.iter().filter_map(of_interface).collect(),
        peer: None,
        upper: Vec::new(),
        driver: driver.name,
    }
}

fn program(index: u32, id: u32, mode: &'static str) -> XdpProgram {
    let found = steer::existing_program(index).ok().flatten();
    XdpProgram {
        id,
        mode: mode.to_owned(),
        ours: found.as_ref().is_some_and(steer::ExistingProgram::is_steer),
        name: found.map(|p| p.name),
    }
}

/// Interrupts whose name has the interface's name or its bus address as a word.
fn irqs(interrupts: &str, name: &str, bus: &str) -> Vec<Irq> {
    let ours = |text: &str, wanted: &str| {
        !wanted.is_empty()
            && text.match_indices(wanted).any(|(at, _)| {
                let before = text[..at].chars().next_back();
                let after = text[at + wanted.len()..].chars().next();
                !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
            })
    };
    let line = |l: &str| {
        let (number, rest) = l.trim().split_once(':')?;
        let number = number.parse().ok()?;
        let label = rest.split_whitespace().skip_while(|w| w.parse::<u64>().is_ok()).collect::<Vec<_>>().join(" ");
        if !ours(&label, name) && !ours(&label, bus) {
            return None;
        }
        let cpus = text(&format!("/proc/irq/{number}/smp_affinity_list")).map(|t| cpu_list(&t)).unwrap_or_default();
        Some(Irq { number, name: label.rsplit(' ').next().unwrap_or_default().to_owned(), cpus })
    };
    interrupts.lines().filter_map(line).collect()
}

/// The other end of a veth: in this namespace, or in one that can be found and entered.
fn peer(index: u32, link: &Link, links: &[Link], spaces: &HashMap<i32, String>, ethtool: &Ethtool) -> Peer {
    let unseen = Peer { index, ..Peer::default() };
    match link.link_netns {
        None => links.iter().find(|l| l.index == index).map_or(unseen, |l| end(l, ethtool, None)),
        Some(id) => {
            let Some(path) = spaces.get(&id) else { return unseen };
            let look = || {
                let (links, _) = ask()?;
                let found = links.iter().find(|l| l.index == index).context("the peer is gone")?;
                Ok(end(found, &Ethtool::open()?, Some(path.clone())))
            };
            netns::within(Some(path), look).unwrap_or(unseen)
        }
    }
}

fn end(link: &Link, ethtool: &Ethtool, namespace: Option<String>) -> Peer {
    Peer {
        index: link.index,
        namespace,
        seen: true,
        name: link.name.clone(),
        mtu: link.mtu,
        up: link.up,
        offloads: ethtool.offloads(&link.name),
        xdp_attached: link.xdp.is_some(),
    }
}

/// The links, and a path to each namespace that one of them leads into, by its number in this one.
fn ask() -> Result<(Vec<Link>, HashMap<i32, String>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("asking netlink")?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().context("cannot open a netlink socket")?;
        let connection = tokio::spawn(connection);
        let mut links: Vec<Link> = Vec::new();
        let mut dump = handle.link().get().execute();
        while let Some(message) = dump.try_next().await.context("cannot list the links over netlink")? {
            links.push(read(message));
        }
        let wanted: HashSet<i32> = links.iter().filter_map(|l| l.link_netns).collect();
        let spaces = if wanted.is_empty() { HashMap::new() } else { namespaces(&handle, &wanted).await };
        connection.abort();
        Ok((links, spaces))
    })
}

fn read(message: LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Running),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(bytes) if bytes.len() == 6 => {
                link.mac = Some(bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":"));
            }
            LinkAttribute::Link(index) => link.link = Some(index),
            LinkAttribute::LinkNetNsId(id) => link.link_netns = Some(id),
            LinkAttribute::Controller(index) => link.controller = Some(index),
            LinkAttribute::NumRxQueues(n) => link.rx_queues = Some(n),
            LinkAttribute::ParentDevName(name) => link.parent = Some(name),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.into_iter().find_map(|i| match i {
                    LinkInfo::Kind(kind) => Some(kind),
                    _ => None,
                });
            }
            LinkAttribute::Xdp(parts) => {
                let id = |wanted: fn(&LinkXdp) -> Option<u32>| parts.iter().find_map(wanted).filter(|id| *id != 0);
                let native = id(|p| if let LinkXdp::DrvProgId(i) | LinkXdp::HwProgId(i) = p { Some(*i) } else { None });
                let generic = id(|p| if let LinkXdp::SkbProgId(i) = p { Some(*i) } else { None });
                link.xdp = native.map(|id| (id, "native")).or(generic.map(|id| (id, "generic")));
            }
            _ => {}
        }
    }
    link
}

/// Finds namespaces by their number: those with a name, and those that some process is in.
async fn namespaces(handle: &Handle, wanted: &HashSet<i32>) -> HashMap<i32, String> {
    let named = std::fs::read_dir("/run/netns").into_iter().flatten().flatten().map(|e| e.path());
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = processes
        .filter(|e| e.file_name().to_str().is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit())))
        .map(|e| e.path().join("ns/net"));
    let mut seen = HashSet::new();
    let mut found = HashMap::new();
    for path in named.chain(processes) {
        let Ok(file) = File::open(&path) else { continue };
        let new = file.metadata().is_ok_and(|m| seen.insert((m.dev(), m.ino())));
        if !new {
            continue;
        }
        if let Some(id) = number_of(handle, &file).await.filter(|id| wanted.contains(id))
            && let Some(path) = path.to_str()
        {
            found.insert(id, path.to_owned());
        }
        if found.len() == wanted.len() || seen.len() > MAX_NAMESPACES {
            break;
        }
    }
    found
}

/// The number that this namespace has for another (`RTM_GETNSID`).
async fn number_of(handle: &Handle, namespace: &File) -> Option<i32> {
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::Fd(namespace.as_raw_fd() as u32));
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(message));
    request.header.flags = NLM_F_REQUEST;
    let mut handle = handle.clone();
    let mut answers = handle.request(request).ok()?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(m)) = answer.payload {
            let id = m.attributes.iter().find_map(|a| if let NsidAttribute::Id(id) = a { Some(*id) } else { None });
            return id.filter(|id| *id >= 0);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_are_those_of_the_device_and_no_others() {
        let text = "           CPU0       CPU1\n  24:   10   20  PCI-MSI 49152-edge  eth1-TxRx-0\n  25:  1 2 PCI-MSI eth10-TxRx-0\n \
                    26: 3 4 IR-PCI-MSI-0000:3b:00.0 0-edge mlx5_comp0@pci:0000:3b:00.0\nNMI: 1 2 Non-maskable";
        let numbers = |name, bus| irqs(text, name, bus).iter().map(|i| i.number).collect::<Vec<_>>();
        assert_eq!(numbers("eth1", ""), [24]);
        assert_eq!(numbers("eth10", ""), [25]);
        assert_eq!(numbers("ens1", "0000:3b:00.0"), [26]);
        assert_eq!(numbers("", ""), [0u32; 0]);
    }
}
