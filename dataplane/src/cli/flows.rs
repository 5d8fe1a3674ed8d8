//! `softdpu flows`: the flows of a running instance.

use std::io::Write;

use super::args::FlowsArgs;
use super::ask::ask;
use super::show::{Rows, bytes, count, duration, or_dash};
use crate::control::{FlowInfo, client};

pub fn run(args: &FlowsArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let socket = args.instance.path()?;
    let flows = ask(client::flows(&socket, args.class.as_deref(), args.host.as_deref(), args.limit))?;
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

/// The biggest first.
pub fn rows(mut flows: Vec<FlowInfo>) -> Rows {
    flows.sort_by_key(|f| std::cmp::Reverse(f.bytes_ab.saturating_add(f.bytes_ba)));
    let mut rows = Rows::new(&[
        "class",
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
    ]);
    for f in flows {
        rows.add([
            f.class,
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
        ]);
    }
    rows
}
