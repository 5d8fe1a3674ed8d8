//! Tables: flows, rules, routes, allowed IPs, and the plan that they are made of.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use softdpu::flow::{FlowTable, Prepared, Seed, Tick};
use softdpu::host::lpm::Lpm;
use softdpu::plan::build;
use softdpu::plan::rules::Known;
use softdpu::tunnel::wireguard::allowed::AllowedIps;
use softdpu::wire::prefix::Prefix;
use softdpu_ebpf_common::walk::walk;

use super::Entry;
use crate::flows::{headers, table_config};
use crate::memory;
use crate::micro::{Case, Spent};
use crate::rules::{self, By};

/// Flows that are put in at a time.
const FLOWS: u32 = 1024;

pub fn entries() -> Vec<Entry> {
    vec![
        Entry::new("flow/look-up-1", "flow: key, look-up, count; 1 flow", 1024, || memory::flow_case("", "", 1)),
        Entry::new("flow/look-up-10k", "flow: key, look-up, count; 10,000 flows", 1024, || {
            memory::flow_case("", "", 10_000)
        }),
        Entry::new("flow/insert", "flow: key, look-up, put in", FLOWS as usize, || flows(false)),
        Entry::new("flow/age", "flow: ended by age", FLOWS as usize, || flows(true)),
        Entry::new("rules/10-prefix", "rule of a flow among 10", 256, || rule(10, By::Prefix)),
        Entry::new("rules/10k-prefix", "rule of a flow among 10,000", 256, || rule(10_000, By::Prefix)),
        Entry::new("rules/10-host", "rule of a flow among 10 by host, host not known", 256, || rule(10, By::Host)),
        Entry::new("trie/allowed-ips-10k", "allowed IPs: peer of an address among 10,000", 256, allowed),
        Entry::new("trie/route-1k", "longest prefix among 1,000 routes", 256, route),
        Entry::new("plan/build-10", "plan of 10 rules, from the policy read", 1, || plan(10)),
        Entry::new("plan/parse-10", "policy of 10 rules, read and checked", 1, parse),
    ]
}

/// Puts flows into a table, or ends them; what is left is taken out outside of what counts.
fn flows(age: bool) -> Result<Case<'static>> {
    let mut table = FlowTable::new(&table_config(4 * FLOWS), Seed::fixed(1), Tick(1));
    let mut now = Tick(1);
    let mut n = 0;
    Ok(Case::timed("", "", move |wanted| {
        let (mut done, mut spent) = (0, Spent::default());
        while done < wanted {
            let insert = |table: &mut FlowTable| {
                let mut prepared = Prepared::default();
                for at in n..n + FLOWS {
                    let key =
                        table.prepare_into(softdpu::flow::Net::OUTSIDE, &headers(at, 1 << 24), &[], now, &mut prepared);
                    assert!(key.is_ok() && table.lookup_or_insert(&prepared, now, |_, _| {}).is_ok());
                }
            };
            let later = now.plus(100_000);
            let expire = |table: &mut FlowTable| while table.expire(later, 128, |_, _| {}) >= 64 {};
            if age {
                insert(&mut table);
                spent += Spent::on(|| expire(&mut table));
            } else {
                spent += Spent::on(|| insert(&mut table));
                expire(&mut table);
            }
            assert!(table.is_empty());
            (now, n) = (later, (n + FLOWS) % (1 << 24));
            done += FLOWS as usize;
        }
        (done, spent)
    }))
}

fn rule(count: u32, by: By) -> Result<Case<'static>> {
    let plan = build(&rules::policy(count, by)?, 1)?;
    let packets = (0..256).map(|n| walk(&rules::of_flow(n, count)[..]).map_err(|e| anyhow::anyhow!("walk: {e:?}")));
    let packets = packets.collect::<Result<Vec<_>>>()?;
    let mut at = 0;
    Ok(Case::new("", "", move |n| {
        for _ in 0..n {
            black_box(plan.rules.look_up(black_box(&packets[at]), &Known::default(), None));
            at = (at + 1) % packets.len();
        }
    }))
}

fn prefix(n: u32, len: u8) -> Result<Prefix> {
    Prefix::new(Ipv4Addr::from(0x0a00_0000 + (n << 8)).into(), len).context("a prefix")
}

/// Addresses in an order of no order.
fn address(n: u32, of: u32) -> Ipv4Addr {
    let n = (u64::from(n) * 7919 % u64::from(of)) as u32;
    Ipv4Addr::from(0x0a00_0007 + (n << 8))
}

fn allowed() -> Result<Case<'static>> {
    const MANY: u32 = 10_000;
    let mut all = AllowedIps::default();
    for n in 0..MANY {
        all.insert(prefix(n, 24)?, n);
    }
    let table = all.table();
    ensure!(table.look_up_v4(address(1, MANY)).is_some(), "nobody's address");
    let mut at = 0;
    Ok(Case::new("", "", move |n| {
        for _ in 0..n {
            black_box(table.look_up_v4(black_box(address(at, MANY))));
            at = (at + 1) % MANY;
        }
    }))
}

fn route() -> Result<Case<'static>> {
    const MANY: u32 = 1000;
    let mut routes = Lpm::default();
    for n in 0..MANY {
        // Of several lengths.
        routes.insert(prefix(n, 24 - (n % 4) as u8)?, n);
    }
    ensure!(routes.get(address(1, MANY).into()).is_some(), "no route");
    let mut at = 0;
    Ok(Case::new("", "", move |n| {
        for _ in 0..n {
            black_box(routes.get(black_box(IpAddr::V4(address(at, MANY)))));
            at = (at + 1) % MANY;
        }
    }))
}

fn plan(count: u32) -> Result<Case<'static>> {
    let policy = rules::policy(count, By::Prefix)?;
    Ok(Case::new("", "", move |n| {
        for _ in 0..n {
            assert!(black_box(build(black_box(&policy), 1)).is_ok());
        }
    }))
}

fn parse() -> Result<Case<'static>> {
    let text = rules::policy_text(10, By::Prefix)?;
    Ok(Case::new("", "", move |n| {
        for _ in 0..n {
            assert!(black_box(softdpu::config::parse(black_box(&text), "bench")).is_ok());
        }
    }))
}
