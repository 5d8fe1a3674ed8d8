//! `softdpu trace`: packets' ways through the graph, from a running instance or over capture files.

use std::io::Write;

use anyhow::bail;

use super::args::TraceArgs;
use super::ask::ask;
use super::{filter, replay, run};
use crate::control::watch_client;
use crate::telemetry::log;
use crate::watch::WatchRequest;
use crate::watch::step::{Edit, Step};
use crate::watch::way::{Line, Way};
use crate::worker;

/// Bytes of an edit that are shown; --json has all.
const SHOWN: usize = 24;

pub fn run(args: &TraceArgs, log_level: &str, out: &mut impl Write) -> anyhow::Result<bool> {
    let request = WatchRequest {
        filter: filter::compile(&args.filter)?,
        count: args.count,
        seconds: args.seconds,
        ..WatchRequest::default()
    };
    let mut told = 0_u64;
    let mut tell = |way: &Way| -> anyhow::Result<()> {
        if args.json {
            writeln!(out, "{}", serde_json::to_string(way)?)?;
        } else {
            show(way, out)?;
        }
        told += 1;
        Ok(out.flush()?)
    };
    if let Some(config) = &args.config {
        log::init(log_level)?;
        let Some(policy) = run::load(config) else { return Ok(false) };
        let inputs = replay::resolve(&policy, &args.inputs, "--in")?;
        worker::replay::trace(policy, &inputs, &request, tell)?;
    } else {
        let socket = args.instance().path()?;
        let (mut lines, mut lost) = (Vec::new(), 0);
        ask(watch_client::watch(&socket, true, &request, |bytes| {
            lines.extend_from_slice(bytes);
            while let Some(end) = lines.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = lines.drain(..=end).collect();
                match serde_json::from_slice(&line)? {
                    Line::Way(way) => tell(&way)?,
                    Line::Ended { ended } => lost = ended.lost,
                }
            }
            Ok(true)
        }))?;
        if !lines.is_empty() {
            bail!("the trace broke off");
        }
        if lost > 0 {
            eprintln!("{lost} records were lost: more packets came than could be looked at");
        }
    }
    if told == 0 {
        eprintln!("no packet came that matches");
    }
    Ok(told > 0)
}

/// One packet, for people.
pub fn show(way: &Way, out: &mut impl Write) -> std::io::Result<()> {
    let (seconds, nanoseconds) = (way.time / 1_000_000_000, way.time % 1_000_000_000);
    let day = seconds % 86_400;
    let worker = way.worker.map(|worker| format!(", worker {worker}")).unwrap_or_default();
    let (hour, minute, second) = (day / 3600, day / 60 % 60, day % 60);
    writeln!(
        out,
        "packet {}: {} bytes by port {}{worker}, {hour:02}:{minute:02}:{second:02}.{nanoseconds:09} UTC",
        way.packet, way.len, way.port
    )?;
    if let Some(xdp) = &way.xdp {
        let rule = xdp.rule.as_ref().map(|rule| format!(", rule {rule}")).unwrap_or_default();
        let how = match (xdp.recomputed, &xdp.why) {
            (false, _) => String::new(),
            (true, None) => " (recomputed)".to_owned(),
            (true, Some(why)) => format!(" (recomputed: {why})"),
        };
        let by = xdp.out.as_ref().map(|port| format!(", out by port {port}")).unwrap_or_default();
        line(out, "xdp", &format!("{}{rule}{by}{how}; flow table: {}", xdp.verdict, xdp.flow_table))?;
        for edit in &xdp.edits {
            line(out, "", &changed(edit))?;
        }
    }
    for step in &way.steps {
        let (mut said, mut edits) = (said(step), step.edits.iter().map(changed));
        if said.is_empty() {
            said = edits.next().unwrap_or_else(|| "goes by".to_owned());
        }
        line(out, &step.node, &said)?;
        for edit in edits {
            line(out, "", &edit)?;
        }
    }
    let end = match way.end.as_str() {
        "forwarded" => "forwarded by the XDP program",
        "kernel" => "left to the kernel",
        "unseen" => "given to a worker, and none took it up",
        end => end,
    };
    let reason = way.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    writeln!(out, "  => {end}{reason}\n")
}

fn line(out: &mut impl Write, node: &str, text: &str) -> std::io::Result<()> {
    writeln!(out, "  {node:<15}{text}")
}

fn said(step: &Step) -> String {
    let mut parts = step.says.clone();
    let size = match (step.front, step.back) {
        (0, 0) => None,
        (front, 0) => Some(format!("{front:+} bytes in front")),
        (0, back) => Some(format!("{back:+} bytes behind")),
        (front, back) => Some(format!("{front:+} bytes in front, {back:+} behind")),
    };
    parts.extend(size.map(|size| format!("{size}: {} bytes", step.len)));
    if step.moved {
        parts.push(format!("in other memory: {} bytes", step.len));
    }
    parts.join("; ")
}

fn changed(edit: &Edit) -> String {
    let short = |hex: &str| match hex.get(..2 * SHOWN) {
        Some(start) if hex.len() > 2 * SHOWN => format!("{start}… ({} bytes)", hex.len() / 2),
        _ => hex.to_owned(),
    };
    if edit.before.is_empty() {
        format!("at {:<4} new {}", edit.at, short(&edit.after))
    } else {
        format!("at {:<4} {} -> {}", edit.at, short(&edit.before), short(&edit.after))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::watch::steered::Steered;

    #[test]
    fn a_way_is_shown_node_by_node() {
        let xdp = Steered {
            verdict: "worker".into(),
            rule: Some("apps".into()),
            recomputed: true,
            why: Some("no record".into()),
            ..Steered::default()
        };
        let edit = Edit { at: 8, before: "40".into(), after: "3f".into() };
        let steps = vec![
            Step { node: "rx".into(), says: vec!["from port apps".into()], len: 74, ..Step::default() },
            Step { node: "parse".into(), front: -14, len: 60, ..Step::default() },
            Step { node: "gather".into(), len: 60, ..Step::default() },
            Step { node: "icmp".into(), len: 60, edits: vec![edit], ..Step::default() },
        ];
        let way = Way {
            packet: 1,
            worker: Some(0),
            port: "apps".into(),
            len: 74,
            xdp: Some(xdp),
            steps,
            end: "sent".into(),
            ..Way::default()
        };
        let mut out = Vec::new();
        show(&way, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for line in [
            "packet 1: 74 bytes by port apps, worker 0, 00:00:00.000000000 UTC",
            "  xdp            worker, rule apps (recomputed: no record); flow table: ",
            "  parse          -14 bytes in front: 60 bytes",
            "  gather         goes by",
            "  icmp           at 8    40 -> 3f",
            "  => sent",
        ] {
            assert!(text.contains(line), "{line:?} in {text}");
        }
    }
}
