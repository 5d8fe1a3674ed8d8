//! What strangers can send to a recogniser, and what that costs those that are there already: packets of old flows through the
//! graph, alone and in turn with batches of each kind of hostile traffic. CPU time, per packet.

use anyhow::{Context, Result};

use softdpu::config;
use softdpu::worker::build::wire_fib;
use softdpu::worker::harness::Harness;
use softdpu_testbed::hostile::{dns, hello, question, quic, records};
use softdpu_testbed::packet::{ACK, Ends, SYN, frame, ipv4_fragment, tcp, udp, udp_datagram};

use crate::flows::{OLD, POLICY, TURN, pass, settled};
use crate::micro::Effort;
use crate::report::{Bound, Section, Target};
use crate::stop;

/// Streams that are sent at a time, a segment of each in turn.
const STREAMS: u32 = 256;
const SEGMENT: usize = 1400;

/// Packet number `n` of a kind of traffic that does not end.
type Make = Box<dyn Fn(u32) -> Vec<u8>>;

/// Measures each kind with `packets` hostile packets and as many of old flows.
///
/// # Errors
/// Where the policy or memory fails, or an old flow was lost.
pub fn run(effort: Effort, packets: u32) -> Result<(Section, Vec<Target>)> {
    let title = "old flows beside hostile traffic, graph in memory, CPU time per packet, one core";
    let mut section = Section::new("hostile", title, "ns");
    let mut targets = Vec::new();
    for (kind, title, make) in kinds() {
        if stop::asked() {
            break;
        }
        let kept = beside(&mut section, effort, packets, (kind, title), &make)?;
        targets.push(Target::new(format!("rate of old flows beside {title} / alone"), Bound::AtLeast, 0.9, kept));
    }
    section.notes.push(format!(
        "{OLD} old flows; batches of {TURN} hostile packets and of {TURN} old ones in turn, timed apart; the in-memory ports' \
         copies are part of each, from and to buffers of {TURN} packets."
    ));
    Ok((section, targets))
}

fn kinds() -> Vec<(&'static str, &'static str, Make)> {
    let large = records(&hello("early.example", 10, 65_000), 4000);
    let first = records(&hello("first.example", 10, 300), 4000);
    let second = records(&hello("other.example", 10, 300), 4000);
    let fields = [b"GET / HTTP/1.1\r\n".to_vec(), b"X-Filling: abcdefgh\r\n".repeat(3200)].concat();
    let sealed: Vec<Vec<u8>> = (0..64u32).map(scattered).collect();
    vec![
        ("hellos", "hellos of 64 KiB", Box::new(move |n| stream_packet(n, &large, 443))),
        ("fields", "HTTP fields without end", Box::new(move |n| stream_packet(n, &fields, 80))),
        ("overlaps", "segments that contradict each other", Box::new(move |n| overlap(n, &first, &second))),
        ("fragments", "fragments that never complete", Box::new(fragment)),
        ("names", "DNS names that are none", Box::new(name)),
        (
            "quic",
            "QUIC hellos in thousands of pieces",
            Box::new(move |n| {
                let ends = source(n / 4, 443);
                frame(&udp(ends, &sealed[(n % 64) as usize]))
            }),
        ),
    ]
}

/// Rounds of old packets alone and beside; the old flows' rate beside, as a part of that alone.
fn beside(
    section: &mut Section,
    effort: Effort,
    packets: u32,
    (kind, title): (&str, &str),
    make: &Make,
) -> Result<Option<f64>> {
    let policy = config::parse(POLICY, "bench").map_err(|e| anyhow::anyhow!("{e}")).context("the bench's policy")?;
    let fib = wire_fib(&policy);
    let mut harness = Harness::with_wires(policy, fib, TURN as usize)?;
    let old = settled(&mut harness);
    let rounds = effort.rounds.max(2);
    let turns = (packets / rounds as u32 / TURN).max(8);
    let names = ["alone", "beside", "itself"].map(|what| format!("{kind}-{what}"));
    let mut sent = 0;
    // Kept: memory that goes back to the kernel and comes again takes the caches with it.
    let mut hostile: Vec<Vec<u8>> = (0..TURN).map(make).collect();
    let part = |turn: u32| {
        let from = (turn * TURN % OLD) as usize;
        &old[from..from + TURN as usize]
    };
    for round in 0..rounds {
        if stop::asked() {
            break;
        }
        let mut spent = [0.0; 3];
        // Which comes first changes from round to round.
        for what in [round % 2, 1 - round % 2] {
            for turn in 0..turns {
                if what == 1 {
                    hostile.iter_mut().zip(sent..).for_each(|(packet, n)| *packet = make(n));
                    sent += TURN;
                    spent[2] += pass(&mut harness, 0, &hostile);
                }
                spent[what] += pass(&mut harness, 0, part(turn));
            }
        }
        let each = f64::from(turns) * f64::from(TURN);
        let titles = ["an old flow's packet, alone", "an old flow's packet, beside", "a packet of the"];
        for ((name, of), spent) in names.iter().zip(titles).zip(spent) {
            section.round(name, &format!("{title}: {of}"), spent / each);
        }
    }
    let kept = harness.worker.flows.iter().filter(|(_, f)| f.is_proven() && f.responder().port != 443).count();
    anyhow::ensure!(kept >= OLD as usize, "{kept} of {OLD} old flows are left beside {title}");
    anyhow::ensure!(harness.worker.pool.account().balanced(), "frames are missing after {title}");
    Ok(match (section.median(&names[0]), section.median(&names[1])) {
        (Some(alone), Some(beside)) => Some(alone / beside),
        _ => None,
    })
}

/// A stranger's ends.
fn source(n: u32, port: u16) -> Ends {
    Ends { src: (0x1400_0000 + n).to_be_bytes(), dst: [10, 2, 0, 2], ports: (20_000, port) }
}

/// A SYN, then the segments with each pair of them the wrong way round.
fn stream_packet(n: u32, stream: &[u8], port: u16) -> Vec<u8> {
    let segments = stream.len().div_ceil(SEGMENT) as u32;
    let (slot, step) = (n % STREAMS, n / STREAMS);
    let (lap, at) = (step / (segments + 1), step % (segments + 1));
    let ends = source(lap * STREAMS + slot, port);
    if at == 0 {
        return frame(&tcp(ends, SYN, 7, 0, &[]));
    }
    let at = ((at - 1) ^ 1).min(segments - 1) as usize * SEGMENT;
    let part = &stream[at..stream.len().min(at + SEGMENT)];
    frame(&tcp(ends, ACK, 8 + at as u32, 5001, part))
}

/// Behind a gap, again with something else, then the gap.
fn overlap(n: u32, first: &[u8], second: &[u8]) -> Vec<u8> {
    let (slot, step) = (n % STREAMS, n / STREAMS);
    let ends = source(step / 4 * STREAMS + slot, 443);
    frame(&match step % 4 {
        0 => tcp(ends, SYN, 7, 0, &[]),
        1 => tcp(ends, ACK, 13, 5001, &first[5..]),
        2 => tcp(ends, ACK, 13, 5001, &second[5..]),
        _ => tcp(ends, ACK, 8, 5001, &first[..5]),
    })
}

fn fragment(n: u32) -> Vec<u8> {
    let ends = source(n / 2, 53);
    let first = udp_datagram(ends.ports, &[0x55; 56]);
    frame(&if n.is_multiple_of(2) {
        ipv4_fragment((n as u16, 0, true), 17, ends.src, ends.dst, &first)
    } else {
        ipv4_fragment((!n as u16, 9, true), 17, ends.src, ends.dst, &[0x66; 64])
    })
}

fn name(n: u32) -> Vec<u8> {
    let rest = match n % 3 {
        0 => question(23, 60),
        1 => question(600, 1),
        // At itself.
        _ => vec![0xc0, 12, 0, 1, 0, 1],
    };
    frame(&udp(source(n, if n.is_multiple_of(2) { 53 } else { 9999 }), &dns([1, 0, 0, 0], &rest)))
}

/// A client's first datagram whose hello is in 150 pieces with holes between.
fn scattered(n: u32) -> Vec<u8> {
    let frames: Vec<u8> = (0..150).flat_map(|i| quic::crypto(i * 2, &[1])).collect();
    quic::initial(&[&n.to_be_bytes()[..], &[9; 4]].concat(), n, &frames)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn all_kinds_run_and_old_flows_stay() {
        let (section, targets) = run(Effort::new(2, 1000), 4096).unwrap();
        assert_eq!(targets.len(), 6);
        assert!(targets.iter().all(|t| t.seen.is_some()));
        assert!(section.contenders.iter().all(|c| c.rounds.iter().all(|r| *r > 0.0)));
    }
}
