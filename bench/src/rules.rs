//! Ten thousand rules against ten: packets of old and of new flows through the graph, in turn. And what it takes to make a
//! plan of ten thousand rules and a thousand intents.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use softdpu::config::{self, Memo, Policy};
use softdpu::io::steer;
use softdpu::plan::{build, steering};
use softdpu::worker::harness::Harness;

use crate::bpf::programs::ip_checksum;
use crate::clock::thread_cpu;
use crate::graph::{POLICY, ports};
use crate::memory::packet;
use crate::micro::{Case, Effort, alternate};
use crate::report::{Bound, Section, Target};
use crate::stats::random::Random;

const FEW: u32 = 10;
const MANY: u32 = 10_000;
const INTENTS: usize = 1_000;
/// Packets put on the wire before each timed stretch.
const BURST: u32 = 1024;
/// Of old flows: more than one per rule where there are few, each of another where there are many.
const FLOWS: u32 = 1000;

/// What rules tell flows apart by.
#[derive(Clone, Copy)]
pub(crate) enum By {
    Prefix,
    /// Known only when the flow is recognised, which it never is: all rules stay open.
    Host,
}

/// `count` rules, the last for all that is left.
pub(crate) fn policy(count: u32, by: By) -> Result<Policy> {
    let text = policy_text(count, by)?;
    config::parse(&text, "bench").map_err(|e| anyhow::anyhow!("{e}")).context("the bench's policy")
}

pub(crate) fn policy_text(count: u32, by: By) -> Result<String> {
    let mut own = String::new();
    for n in 0..count - 1 {
        write!(own, "[[rule]]\nname = \"r{n}\"\n")?;
        match by {
            By::Prefix => writeln!(own, "to = [\"10.{}.{}.0/24\"]\nprotocol = \"udp\"", n / 256, n % 256)?,
            By::Host => writeln!(own, "host = [\"shop{n}.example\"]\naction = \"drop\"")?,
        }
    }
    Ok(POLICY.replacen("[[rule]]", &format!("{own}[[rule]]"), 1))
}

/// Packet `n` of a flow of its own, which falls under one of `rules` by prefix.
pub(crate) fn of_flow(n: u32, rules: u32) -> Vec<u8> {
    let mut p = packet(0, 60);
    let rule = (u64::from(n) * 7919 % u64::from(rules - 1)) as u32;
    // Source: host and port count; destination: the rule's.
    p[28..30].copy_from_slice(&((n >> 14) as u16).to_be_bytes());
    p[30..34].copy_from_slice(&[10, (rule / 256) as u8, rule as u8, 7]);
    p[34..36].copy_from_slice(&((n & 0x3fff) as u16 + 10_000).to_be_bytes());
    // No UDP checksum (RFC 768).
    p[40..42].fill(0);
    p[24..26].fill(0);
    let sum = ip_checksum(&p[14..34]);
    p[24..26].copy_from_slice(&sum.to_be_bytes());
    p
}

fn send(harness: &Harness, packets: &[Vec<u8>]) {
    for p in packets {
        assert!(harness.send(0, p), "the wire holds a burst");
    }
}

fn run_burst(harness: &mut Harness) {
    let mut done = 0;
    while done < BURST as usize {
        harness.now += 10_000;
        done += harness.worker.turn(harness.now);
    }
}

/// The same flows again and again.
fn old<'a>(name: &str, title: &str, rules: u32) -> Result<Case<'a>> {
    let mut harness = Harness::new(policy(rules, By::Prefix)?)?;
    let packets: Vec<Vec<u8>> = (0..BURST).map(|n| of_flow(n % FLOWS, rules)).collect();
    for _ in 0..16 {
        send(&harness, &packets);
        harness.settle();
        let arrived = std::iter::from_fn(|| harness.receive(1)).count();
        anyhow::ensure!(arrived == packets.len(), "{arrived} of {BURST} packets came through the graph");
    }
    let prepare = move |h: &mut Harness| {
        while h.receive(1).is_some() {}
        send(h, &packets);
    };
    Ok(Case::batches(name, title, BURST as usize, harness, prepare, run_burst))
}

/// Each packet is of a flow that was never seen.
fn new<'a>(name: &str, title: &str, rules: u32, by: By) -> Result<Case<'a>> {
    let harness = Harness::new(policy(rules, by)?)?;
    let mut n = 0;
    let prepare = move |h: &mut Harness| {
        while h.receive(1).is_some() {}
        let packets: Vec<Vec<u8>> = (n..n + BURST).map(|n| of_flow(n, rules)).collect();
        n = (n + BURST) % (1 << 30);
        send(h, &packets);
    };
    Ok(Case::batches(name, title, BURST as usize, harness, prepare, run_burst))
}

const CASES: usize = 7;

fn case<'a>(n: usize) -> Result<Case<'a>> {
    match n {
        0 => ports("ports", "the in-memory ports alone", 60),
        1 => old("old-10-all", "old flows, 10 rules, ports too", FEW),
        2 => old("old-10k-all", "old flows, 10,000 rules, ports too", MANY),
        3 => new("new-10-all", "new flows, 10 rules, ports too", FEW, By::Prefix),
        4 => new("new-10k-all", "new flows, 10,000 rules, ports too", MANY, By::Prefix),
        5 => new("host-10-all", "new flows, 10 rules by host, ports too", FEW, By::Host),
        _ => new("host-10k-all", "new flows, 10,000 rules by host, ports too", MANY, By::Host),
    }
}

/// Packets under few and under many rules.
///
/// # Errors
/// Where a policy or memory fails.
pub fn packets(effort: Effort) -> Result<(Section, Vec<Target>)> {
    let mut section =
        Section::new("rules-packets", "64-byte packets under 10 and under 10,000 rules, per packet", "ns");
    let mut random = Random::new(1);
    for round in 0..effort.rounds {
        if crate::stop::asked() {
            break;
        }
        // Made anew for every round, and never at the same place: where in memory a table lies by chance is worth some percent.
        let mut ballast = Vec::new();
        let mut made = Vec::new();
        let mut order: Vec<usize> = (0..CASES).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for n in order {
            ballast.push(vec![1u8; (random.next_u64() % (1 << 21)) as usize]);
            made.push(case(n)?);
        }
        if round == 0 {
            made.iter().for_each(|c| section.declare(&c.name, &c.title));
        }
        alternate(&mut section, &mut made, Effort { rounds: 1, ..effort });
        std::hint::black_box(&ballast);
    }
    for (name, title) in [("old", "old flows"), ("new", "new flows"), ("host", "new flows, rules by host")] {
        for (count, rules) in [("10", "10 rules"), ("10k", "10,000 rules")] {
            let (own, all) = (format!("{name}-{count}"), format!("{name}-{count}-all"));
            section.difference(&own, &format!("graph alone, {title}, {rules}"), &all, "ports");
        }
    }
    section.notes.push(format!(
        "Old: {FLOWS} flows in turn, each under another rule where there are that many. New: every packet begins a flow, and the \
         table is full of them. By host: rules that hold for none of them, and are open until the flow is recognised."
    ));
    section.notes.push(
        "Ratios are packets per second with 10,000 rules over those with 10: with the ports, and without them.".into(),
    );
    section.notes.push("All contenders are made anew for every round, at other places in memory.".into());
    let target = |title: &str, wanted, seen| Target::new(title, Bound::AtLeast, wanted, seen);
    let mut targets = Vec::new();
    for (name, what, wanted) in
        [("old", "old flows", 0.95), ("new", "new flows", 0.8), ("host", "new flows, rules by host", 0.8)]
    {
        let all = section.ratio(&format!("{name}-10-all"), &format!("{name}-10k-all"));
        let own = section.ratio(&format!("{name}-10"), &format!("{name}-10k"));
        targets.push(target(&format!("packets/s of {what}, 10,000 rules over 10, ports too"), wanted, all));
        targets.push(target(&format!("packets/s of {what}, 10,000 rules over 10, graph alone"), wanted, own));
    }
    Ok((section, targets))
}

/// A policy and its intents as an operator of a large host might have them, in parts that can be changed.
pub(crate) struct Host {
    /// What comes before the rules.
    pub head: String,
    pub rules: Vec<String>,
    pub intents: Vec<String>,
}

impl Host {
    /// `head`: ports, steering and the like, with `name` and `intents` before all tables.
    pub fn new(head: String) -> Self {
        let rule = |n: u32| {
            let action = if n.is_multiple_of(3) { "action = \"drop\"\n" } else { "" };
            format!(
                "[[rule]]\nname = \"r{n}\"\nfrom = [\"10.1.{}.0/24\"]\nto = [\"10.{}.{}.0/24\"]\nprotocol = \"tcp\"\n\
                 ports = [{}]\n{action}",
                n % 200,
                20 + n / 256,
                n % 256,
                1000 + n
            )
        };
        Self {
            head,
            rules: (0..MANY).map(rule).collect(),
            intents: (0..INTENTS).map(|n| Self::intent(n, 10)).collect(),
        }
    }

    /// The text of one intent.
    pub fn intent(n: usize, ceiling_mbit: usize) -> String {
        format!(
            "name = \"app{n}\"\nowner = \"team {n}\"\nencrypt = \"{}\"\n[bandwidth]\nfloor = \"100 kbit/s\"\n\
             ceiling = \"{ceiling_mbit} Mbit/s\"\n[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.{}.{}.0/24\"]\n",
            ["preferred", "never"][n % 2],
            20 + n / 256,
            n % 256
        )
    }

    /// Change number `n`, each another one: two rules change places, one says the opposite, and one intent asks for another
    /// ceiling. Answers which intent.
    pub fn change(&mut self, n: usize) -> usize {
        let at = |k: usize| n * 7919 % k;
        let rules = &mut self.rules;
        let all = rules.len();
        rules.swap(at(all - 1), all - 1 - at(all / 2));
        let rule = &mut rules[at(all)];
        *rule = match rule.strip_suffix("action = \"drop\"\n") {
            Some(text) => text.to_owned(),
            None => format!("{rule}action = \"drop\"\n"),
        };
        let intent = at(self.intents.len());
        self.intents[intent] = Self::intent(intent, 11 + n);
        intent
    }

    pub fn policy(&self) -> String {
        let all: usize = self.rules.iter().map(String::len).sum();
        let mut text = String::with_capacity(self.head.len() + all);
        text.push_str(&self.head);
        self.rules.iter().for_each(|rule| text.push_str(rule));
        text
    }

    /// # Errors
    /// The file cannot be written.
    pub fn write_intent(&self, folder: &Path, n: usize) -> Result<()> {
        Ok(std::fs::write(folder.join(format!("app{n}.intent.toml")), &self.intents[n])?)
    }

    /// # Errors
    /// A file cannot be written.
    pub fn write_intents(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        (0..self.intents.len()).try_for_each(|n| self.write_intent(folder, n))
    }
}

fn write_host(folder: &Path) -> Result<Host> {
    let host = Host::new(
        "name = \"edge\"\nintents = \"intents\"\n\
         [[port]]\nname = \"uplink\"\nkind = \"xdp\"\ninterface = \"lo\"\n\
         [[steer]]\nname = \"apps\"\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.0.0.0/8\"]\naction = \"worker\"\n\
         [[steer]]\nname = \"apps-back\"\nfrom = [\"10.0.0.0/8\"]\nto = [\"10.1.0.0/16\"]\naction = \"worker\"\n"
            .into(),
    );
    std::fs::write(folder.join("edge.toml"), host.policy())?;
    host.write_intents(&folder.join("intents"))?;
    Ok(host)
}

/// What a reload does before it touches anything.
///
/// # Errors
/// Where a policy is not valid, or a file cannot be written.
pub fn plan(rounds: usize) -> Result<(Section, Vec<Target>)> {
    let title = "making a plan of 10,000 rules and 1,000 intents, as a reload does";
    let mut section = Section::new("rules-plan", title, "ms");
    let folder = tempfile::tempdir()?;
    let mut host = write_host(folder.path())?;
    let path = folder.path().join("edge.toml");
    let load = || config::load(&path).map_err(|e| anyhow::anyhow!("{e}"));
    let text = std::fs::read_to_string(&path)?;
    let mut before = load()?;
    // What a running instance remembers.
    let mut memo = Memo::default();
    let again = |memo: &mut Memo| config::load_again(&path, memo).map_err(|e| anyhow::anyhow!("{e}"));
    again(&mut memo)?;
    for round in 0..rounds {
        if crate::stop::asked() {
            break;
        }
        let mut at = Instant::now();
        let mut lap = |name: &str, title: &str, section: &mut Section| {
            section.round(name, title, at.elapsed().as_secs_f64() * 1e3);
            at = Instant::now();
        };
        let alone =
            config::parse(&text.replacen("intents = ", "# ", 1), "bench").map_err(|e| anyhow::anyhow!("{e}"))?;
        lap("parse", "of it reading and checking the policy, without intents", &mut section);
        drop(alone);
        lap("", "", &mut section);
        let policy = load()?;
        lap("load", "reading, checking and joining policy and intents", &mut section);
        let changes = config::changes(&before, &policy);
        anyhow::ensure!(changes.live.is_empty() && changes.restart.is_empty(), "nothing differs");
        lap("changes", "comparing with the policy in force", &mut section);
        let tunnels = steering::of_tunnels(&policy).into_iter().flatten().collect();
        steer::compile(&steering::rules(&policy, &[Some(1)], tunnels))?;
        lap("steer", "the XDP program's rules", &mut section);
        build(&policy, 2)?;
        lap("build", "the workers' plan, its index too", &mut section);
        section.round("contract", "of loading, the contract", policy.contract.compile_us as f64 / 1e3);
        let whole = ["load", "changes", "steer", "build"];
        let last = |name: &&str| section.contenders.iter().find(|c| c.name == **name).and_then(|c| c.rounds.last());
        let sum = whole.iter().filter_map(last).sum();
        section.round("all", "all of it", sum);
        let intent = host.change(round + 1);
        host.write_intent(&folder.path().join("intents"), intent)?;
        std::fs::write(&path, host.policy())?;
        let (begun, mut cpu) = (Instant::now(), thread_cpu());
        let mut lap = |name: &str, title: &str, section: &mut Section| {
            let now = thread_cpu();
            section.round(name, title, (now - cpu) as f64 / 1e6);
            cpu = now;
        };
        let next = again(&mut memo)?;
        lap("again-load", "three rules and an intent changed: reading, checking, joining (CPU time)", &mut section);
        let changes = config::changes(&before, &next);
        anyhow::ensure!(!changes.live.is_empty() && changes.restart.is_empty(), "something differs");
        lap("again-changes", "the same: comparing (CPU time)", &mut section);
        let tunnels = steering::of_tunnels(&next).into_iter().flatten().collect();
        steer::compile(&steering::rules(&next, &[Some(1)], tunnels))?;
        let built = build(&next, 2)?;
        lap("again-build", "the same: both plans (CPU time)", &mut section);
        section.round("again", "the same: all of it, by the clock", begun.elapsed().as_secs_f64() * 1e3);
        before = next;
        section.notes =
            vec![format!("{} rules and {} steering rules came of it.", built.rules.len(), before.steer.len())];
    }
    section.contenders.retain(|c| !c.name.is_empty());
    let (seen, again) = (section.median("all"), section.median("again"));
    let title = "plan of 10,000 rules and 1,000 intents, ms";
    let targets = vec![
        Target::new(title, Bound::AtMost, 200.0, seen),
        Target::new("the same after a few lines changed, ms", Bound::AtMost, 40.0, again),
    ];
    Ok((section, targets))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_flow_falls_under_a_rule_of_its_own() {
        let mut harness = Harness::new(policy(2000, By::Prefix).unwrap()).unwrap();
        for n in 0..FLOWS {
            assert_eq!(harness.pass(0, &of_flow(n, 2000)).len(), 1);
        }
        let totals = harness.worker.counters.rules.totals();
        assert_eq!(totals.iter().filter(|(_, total)| total.packets > 0).count(), FLOWS as usize);
    }

    #[test]
    fn the_plan_is_made() {
        let (section, targets) = super::plan(1).unwrap();
        assert!(section.median("all").unwrap() > 0.0 && targets[0].seen.is_some());
    }
}
