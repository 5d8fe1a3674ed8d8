//! `softdpu status`: a running instance at a glance.

use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use super::args::StatusArgs;
use super::ask::ask;
use super::show::{Rows, bytes, clean, count, duration, number, or_dash};
use crate::control::{LimitStatus, NicStatus, RuleStatus, Status, client};

/// How long rates are measured.
const INTERVAL: Duration = Duration::from_millis(333);

pub fn run(args: &StatusArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let socket = args.instance.path()?;
    if args.json {
        let status = ask(client::status(&socket))?;
        writeln!(out, "{}", serde_json::to_string_pretty(&status)?)?;
        return Ok(true);
    }
    let (before, now) = ask(async {
        let before = client::status(&socket).await?;
        tokio::time::sleep(INTERVAL).await;
        Ok((before, client::status(&socket).await?))
    })?;
    write!(out, "{}", view(&before, &now))?;
    Ok(true)
}

/// How it went with a port's device, in a line.
fn device(nic: &NicStatus) -> String {
    match (nic.state.as_str(), &nic.message) {
        ("loaded", _) => format!("in the device: {} of {} flows", nic.flows, nic.capacity),
        (state, Some(message)) => {
            let reason = nic.reason.as_deref().map(|code| format!(" ({code})")).unwrap_or_default();
            format!("device {state}{reason}: {message}")
        }
        (state, None) => format!("device {state}"),
    }
}

/// The page: figures of `now`, rates since `before`.
pub fn view(before: &Status, now: &Status) -> String {
    let mut page = format!(
        "{}: softdpu {}, pid {}, up {}, policy {}\n",
        clean(&now.name),
        clean(&now.version),
        now.pid,
        duration(now.uptime_s),
        clean(&now.policy)
    );
    if now.escaped_bytes > 0 {
        let _ = writeln!(page, "\nESCAPED: {} left in clear although a rule encrypts them", bytes(now.escaped_bytes));
    }
    section(&mut page, "Ports", &ports(before, now));
    for port in &now.ports {
        if let Some(nic) = &port.nic {
            let _ = writeln!(page, "   {}: {}", clean(&port.name), clean(&device(nic)));
        }
        for note in &port.notes {
            let _ = writeln!(page, "   {}: {}", clean(&port.name), clean(note));
        }
    }
    section(&mut page, "Workers", &workers(now));
    let unread: u64 = now.workers.iter().map(|w| w.flows_unread).sum();
    if unread > 0 {
        let _ = writeln!(
            page,
            "   flows_unread: {} of which too little could be read to tell class and host",
            count(unread)
        );
    }
    section(&mut page, "Tunnels", &tunnels(now));
    for tunnel in &now.tunnels {
        for note in &tunnel.notes {
            let _ = writeln!(page, "   {}: {}", clean(&tunnel.name), clean(note));
        }
    }
    section(&mut page, "Peers", &peers(now));
    section(&mut page, "WireGuard messages", &messages(now));
    section(&mut page, "Ciphers", &ciphers(now));
    section(&mut page, "Steering", &steer(now));
    section(&mut page, "Rules", &rules(now));
    section(&mut page, "Applications", &class_rows("application", &now.applications));
    section(&mut page, "Limits", &limit_rows(&now.limits));
    section(&mut page, "Classes", &class_rows("class", &now.classes));
    section(&mut page, "Flow export", &export(now));
    let drops = drops(&now.drops);
    section(&mut page, "Drops", &drops);
    if drops.is_empty() {
        page.push_str("\nNo drops\n");
    }
    page
}

fn section(page: &mut String, title: &str, rows: &Rows) {
    if !rows.is_empty() {
        let _ = write!(page, "\n{title}\n{rows}");
    }
}

fn ports(before: &Status, now: &Status) -> Rows {
    let seconds = now.uptime_s - before.uptime_s;
    let rate = |was: u64, is: u64| {
        if seconds > 0.0 { number((is.saturating_sub(was) as f64 / seconds).round()) } else { "-".to_owned() }
    };
    let mut rows =
        Rows::new(&["port", "interface", "mode", ">queues", ">rx packets", ">rx pps", ">tx packets", ">tx pps"]);
    for port in &now.ports {
        let was = before.ports.iter().find(|p| p.name == port.name).unwrap_or(port);
        let mode = match (&port.mode, &port.copy) {
            (Some(mode), Some(copy)) => format!("{mode}, {copy}"),
            _ => port.kind.clone(),
        };
        rows.add([
            port.name.clone(),
            or_dash(port.interface.as_deref()),
            mode,
            port.queues.to_string(),
            count(port.rx.packets),
            rate(was.rx.packets, port.rx.packets),
            count(port.tx.packets),
            rate(was.tx.packets, port.tx.packets),
        ]);
    }
    rows
}

fn workers(now: &Status) -> Rows {
    let mut rows = Rows::new(&[
        "worker",
        ">core",
        "state",
        ">packets",
        ">batches",
        ">per batch",
        ">sleeps",
        ">flows",
        ">free frames",
    ]);
    for w in &now.workers {
        let per_batch =
            if w.batches > 0 { format!("{:.1}", w.packets as f64 / w.batches as f64) } else { "-".to_owned() };
        rows.add([
            w.worker.to_string(),
            w.core.map_or_else(|| "-".to_owned(), |c| c.to_string()),
            w.state.clone(),
            count(w.packets),
            count(w.batches),
            per_batch,
            count(w.polls),
            count(w.flows),
            format!("{}/{}", w.frames.free, w.frames.total),
        ]);
    }
    rows
}

pub fn tunnels(now: &Status) -> Rows {
    tunnel_rows(&now.tunnels)
}

pub fn tunnel_rows(tunnels: &[crate::control::TunnelStatus]) -> Rows {
    let mut rows = Rows::new(&[
        "tunnel",
        "local",
        "remote",
        "cipher",
        ">sealed",
        ">bytes",
        ">opened",
        ">bytes",
        ">replayed",
        ">forged",
        ">lz4 ratio",
    ]);
    for t in tunnels {
        rows.add([
            t.name.clone(),
            t.local.clone(),
            t.remote.clone(),
            t.cipher.clone(),
            count(t.sealed.packets),
            bytes(t.sealed.bytes),
            count(t.opened.packets),
            bytes(t.opened.bytes),
            count(t.replayed),
            count(t.forged),
            t.ratio().map_or_else(|| "-".to_owned(), |r| format!("{r:.2}")),
        ]);
    }
    rows
}

fn peers(now: &Status) -> Rows {
    let mut rows =
        Rows::new(&["tunnel", "peer", "endpoint", "allowed IPs", ">handshake", ">sent", ">received", "public key"]);
    for tunnel in &now.tunnels {
        for peer in &tunnel.peers {
            rows.add([
                tunnel.name.clone(),
                peer.name.clone(),
                or_dash(peer.endpoint.as_deref()),
                peer.allowed_ips.join(" "),
                peer.last_handshake_s.map_or_else(|| "never".to_owned(), duration),
                bytes(peer.sent_bytes),
                bytes(peer.received_bytes),
                peer.public_key.clone(),
            ]);
        }
    }
    rows
}

fn ciphers(now: &Status) -> Rows {
    let mut rows = Rows::new(&["cipher", "run by", ">ns for 1400 B"]);
    for c in &now.ciphers {
        rows.add([c.cipher.clone(), c.back_end.clone(), count(c.ns_1400)]);
    }
    rows
}

fn export(now: &Status) -> Rows {
    let mut rows = Rows::new(&["to", ">records", ">lost", ">messages", ">unsent", ">unwritten"]);
    if let Some(e) = &now.export {
        let to: Vec<_> = [&e.ipfix, &e.log].into_iter().flatten().cloned().collect();
        let counts = [e.records, e.lost, e.messages, e.unsent, e.unwritten].map(count);
        rows.add([to.join(", ")].into_iter().chain(counts));
    }
    rows
}

fn messages(now: &Status) -> Rows {
    let mut rows = Rows::new(&[">messages", "what became of them"]);
    for (reason, messages) in &now.wireguard_messages {
        rows.add([count(*messages), reason.clone()]);
    }
    rows
}

fn steer(now: &Status) -> Rows {
    let mut rows = Rows::new(&["rule", "action", "on loss", ">packets", ">bytes"]);
    for s in &now.steer {
        rows.add([s.name.clone(), s.action.clone(), s.on_loss.clone(), count(s.packets), bytes(s.bytes)]);
    }
    rows
}

fn rules(now: &Status) -> Rows {
    let mut rows = Rows::new(&["rule", "does", ">packets", ">bytes"]);
    for r in &now.rules {
        rows.add([r.name.clone(), does(r), count(r.packets), bytes(r.bytes)]);
    }
    rows
}

/// What a rule does, and of copies how many there are.
fn does(rule: &RuleStatus) -> String {
    let mut text = rule.what.clone();
    if rule.copied > 0 || rule.not_copied > 0 {
        text += &format!(" ({} copied", count(rule.copied));
        if rule.not_copied > 0 {
            text += &format!(", {} not", count(rule.not_copied));
        }
        text.push(')');
    }
    text
}

fn class_rows(what: &'static str, classes: &[crate::telemetry::snapshot::ClassTraffic]) -> Rows {
    let mut rows = Rows::new(&[what, ">flows", ">packets", ">bytes"]);
    for c in classes.iter().filter(|c| c.flows > 0) {
        rows.add([c.name.clone(), count(c.flows), count(c.packets), bytes(c.bytes)]);
    }
    rows
}

fn limit_rows(limits: &[LimitStatus]) -> Rows {
    let mut rows = Rows::new(&["application", ">connections", ">most", ">packets refused"]);
    for limit in limits {
        let counts = [limit.connections.into(), limit.most.into(), limit.refused].map(count);
        let [connections, most, refused] = counts;
        rows.add([limit.application.clone(), connections, most, refused]);
    }
    rows
}

pub fn drops(drops: &[crate::control::DropCount]) -> Rows {
    let mut rows = Rows::new(&[">packets", "reason", "node", "what it means"]);
    let mut by_count: Vec<_> = drops.iter().filter(|d| d.count > 0).collect();
    by_count.sort_by_key(|d| std::cmp::Reverse(d.count));
    for d in by_count {
        rows.add([count(d.count), d.reason.clone(), d.node.clone(), d.help.clone()]);
    }
    rows
}
