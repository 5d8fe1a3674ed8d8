//! The demo without privileges: the same graph, from a capture made for the purpose, by `softdpu replay`.
//!
//! ```text
//!   client.pcap ─► edge-a ─► there.pcap ─► edge-b ─► to-server.pcap
//!   to-client.pcap ◄─ edge-a ◄─ back.pcap ◄─ edge-b ◄─ server.pcap
//! ```

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};
use serde_json::Deserializer;
use softdpu_testbed::{
    cleanup::RunDir,
    pcap, policy, process,
    status::{Flow, flows},
};

use super::{
    Arguments,
    apps::{SECURE, SHOP},
    classes::by_class,
    corpus::{self, MARKER},
    packets::{self, From},
    report::{Compression, Report, Wire},
    say,
};

const PATIENCE: Duration = Duration::from_secs(60);
const ETHERNET: usize = 14;

/// Replays the capture through both edges and fills the report.
///
/// # Errors
/// When softdpu cannot be run or leaves no capture.
pub fn run(arguments: &Arguments, binary: &Path, report: &mut Report) -> Result<()> {
    report.mode = "replay";
    let why = if softdpu_testbed::is_root() { "as asked" } else { "no privileges to make namespaces" };
    let note =
        format!("{why}: the graph ran from a capture made for the demo, not on live traffic; no throughput figures");
    eprintln!("{note}");
    report.notes.push(note);
    let mut folder = RunDir::new("demo")?;
    if arguments.keep {
        folder.keep();
        eprintln!("everything is kept in {}", folder.path().display());
    }
    corpus::write(folder.path(), 1 << 20, 4096)?;
    let text = std::fs::read(folder.file("catalogue.html"))?;
    let conversation = packets::conversation(&text);
    let of = |who: From| conversation.iter().filter(move |(from, _)| *from == who).map(|(_, frame)| frame.clone());
    let sent: [Vec<Vec<u8>>; 2] = [of(From::Client).collect(), of(From::Server).collect()];
    let file = |name: &str| folder.file(format!("{name}.pcap"));
    store(&file("whole"), conversation.iter().map(|(_, frame)| frame))?;
    store(&file("client"), &sent[0])?;
    store(&file("server"), &sent[1])?;
    let options = policy::Options { ports: policy::Ports::Pcap, ..policy::Options::default() };
    let [edge_a, edge_b] = policy::write(&folder, &options)?;

    let hop = |policy: &Path, input: (&str, &str), output: (&str, &str)| -> Result<Vec<Vec<u8>>> {
        say(&format!("{}: {} -> {}", policy.display(), input.1, output.1));
        let mut command = Command::new(binary);
        command.arg("replay").arg("-c").arg(policy);
        command.args(["--in", &assign(input.0, &file(input.1)), "--out", &assign(output.0, &file(output.1))]);
        process::run(&mut command, PATIENCE)?.ok().with_context(|| process::describe(&command))?;
        Ok(pcap::read(&file(output.1))?.into_iter().map(|frame| frame.bytes).collect())
    };
    let there = hop(&edge_a.policy, ("apps", "client"), ("uplink", "there"))?;
    let to_server = hop(&edge_b.policy, ("uplink", "there"), ("apps", "to-server"))?;
    let back = hop(&edge_b.policy, ("apps", "server"), ("uplink", "back"))?;
    let to_client = hop(&edge_a.policy, ("uplink", "back"), ("apps", "to-client"))?;

    for (name, sent, arrived) in [
        ("every packet of the client arrives as it was sent", &sent[0], &to_server),
        ("every packet of the server arrives as it was sent", &sent[1], &to_client),
    ] {
        let equal = sent.len() == arrived.len() && sent.iter().zip(arrived).all(|(a, b)| normal(a) == normal(b));
        report.check(name, equal, format!("{} sent, {} arrived", sent.len(), arrived.len()));
    }
    let wire: Vec<&Vec<u8>> = there.iter().chain(&back).collect();
    let clear = wire.iter().filter(|frame| !is_esp(frame) || frame.windows(MARKER.len()).any(|part| part == MARKER));
    let not_esp = clear.count();
    report.check(
        "the wire shows nothing but ESP",
        not_esp == 0 && wire.len() > 100,
        format!("{} frames, {not_esp} not ESP", wire.len()),
    );
    report.wire =
        Some(Wire { esp_frames_looked_into: wire.len() - not_esp, frames_not_esp: not_esp, ..Wire::default() });
    let bytes = |frames: &[Vec<u8>]| frames.iter().map(|frame| (frame.len() - ETHERNET) as u64).sum::<u64>();
    // Against the encrypted packets whole: outer header, ESP and padding count against the ratio.
    let ratio = Compression::new("server to client, inner packets to ESP packets", (bytes(&sent[1]), bytes(&back)));
    report.check("text is compressed by more than 2, ESP included", ratio.ratio > 2.0, format!("{:.2}", ratio.ratio));
    report.compression.push(ratio);
    classify(binary, &file("whole"), report)
}

/// What `softdpu classify` makes of the whole conversation.
fn classify(binary: &Path, capture: &Path, report: &mut Report) -> Result<()> {
    let mut command = Command::new(binary);
    let said =
        process::run(command.args(["classify", "--json"]).arg(capture), PATIENCE)?.ok().context("softdpu classify")?;
    let lines = Deserializer::from_str(&said)
        .into_iter()
        .collect::<Result<Vec<serde_json::Value>, _>>()
        .context("classify: no NDJSON")?;
    let flows: Vec<Flow> = flows(&lines.into());
    let expected = [("http", SHOP), ("tls", SECURE), ("dns", SHOP)];
    let found = expected
        .iter()
        .filter(|(class, host)| flows.iter().any(|flow| flow.protocol == *class && flow.host.as_deref() == Some(host)));
    let found = found.count();
    report.check("http, tls and dns flows are classed and named", found == 3, format!("{found} of 3"));
    report.flows_by_class = by_class(&flows);
    Ok(())
}

fn store<'a>(path: &Path, frames: impl IntoIterator<Item = &'a Vec<u8>>) -> Result<()> {
    pcap::write(path, frames.into_iter().map(Vec::as_slice))
}

fn assign(port: &str, file: &Path) -> String {
    format!("{port}={}", file.display())
}

/// The packet of a frame without what forwarding changes: link addresses, TTL, header checksum.
fn normal(frame: &[u8]) -> Vec<u8> {
    let mut packet = frame.get(ETHERNET..).unwrap_or_default().to_vec();
    if packet.len() >= 20 {
        packet[8] = 0;
        packet[10..12].fill(0);
    }
    packet
}

fn is_esp(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[8, 0]) && frame.get(23) == Some(&50)
}
