//! `softdpu flows`: the flows of a running instance.

use std::io::Write;

use super::args::{FlowSort, FlowsArgs};
use super::ask::ask;
use super::show::{Rows, bytes, count, duration, or_dash};
use crate::control::{FlowInfo, client};

pub fn run(args: &FlowsArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let socket = args.instance.path()?;
    let port = args.port.map(|port| port.to_string());
    let filters = [
        ("class", args.class.as_deref()),
        ("app", args.app.as_deref()),
        ("host", args.host.as_deref()),
        ("tier", args.tier.as_deref()),
        ("port", port.as_deref()),
        ("prefix", args.prefix.as_deref()),
    ];
    let mut flows = ask(client::flows(&socket, &filters, args.limit))?;
    args.sort.sort(&mut flows);
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&flows)?)?;
    } else if flows.is_empty() {
        writeln!(out, "no flows")?;
    } else {
        let all = flows.len();
        write!(out, "{}", rows(flows))?;
        if all == args.limit {
            writeln!(out, "{all} flows, there may be more: see --limit")?;
        }
    }
    Ok(true)
}

impl FlowSort {
    fn sort(self, flows: &mut [FlowInfo]) {
        use std::cmp::Reverse;
        match self {
            Self::Bytes => flows.sort_by_key(|f| Reverse(f.bytes_ab.saturating_add(f.bytes_ba))),
            Self::Packets => flows.sort_by_key(|f| Reverse(f.packets_ab.saturating_add(f.packets_ba))),
            Self::Age => flows.sort_by(|x, y| y.age_s.total_cmp(&x.age_s)),
            Self::Idle => flows.sort_by(|x, y| x.idle_s.total_cmp(&y.idle_s)),
            Self::Class => flows.sort_by(|x, y| x.class.cmp(&y.class)),
            Self::Tier => flows.sort_by(|x, y| (&y.tier, &x.offload_reason).cmp(&(&x.tier, &y.offload_reason))),
        }
    }
}

/// The biggest first, for those who do not choose.
pub fn biggest_first(mut flows: Vec<FlowInfo>) -> Rows {
    FlowSort::Bytes.sort(&mut flows);
    rows(flows)
}

fn rows(flows: Vec<FlowInfo>) -> Rows {
    let mut rows = Rows::new(&[
        "class",
        "app",
        "host",
        "l4",
        "from",
        "to",
        "state",
        "tier",
        ">packets",
        ">sent",
        ">received",
        ">age",
        ">idle",
        "rule",
        "tunnel",
        "within",
    ]);
    for f in flows {
        rows.add([
            f.class,
            or_dash(f.application.as_deref()),
            or_dash(f.host.as_deref()),
            f.l4,
            f.a,
            f.b,
            f.state,
            f.tier,
            count(f.packets_ab.saturating_add(f.packets_ba)),
            bytes(f.bytes_ab),
            bytes(f.bytes_ba),
            duration(f.age_s),
            duration(f.idle_s),
            or_dash(f.rule.as_deref()),
            or_dash(f.tunnel.as_deref()),
            or_dash(f.within.as_deref()),
        ]);
    }
    rows
}
