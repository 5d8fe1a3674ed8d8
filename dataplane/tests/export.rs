//! Flow export as others read it: a capture replayed through the graph, its records taken by nfcapd and by tshark.
#![allow(clippy::unwrap_used)]

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use softdpu::config;
use softdpu::worker::replay::replay;

const CLIENT: [u8; 4] = [192, 0, 2, 1];
const SERVER: [u8; 4] = [198, 51, 100, 2];
const REQUEST: &[u8] = b"GET /catalogue HTTP/1.1\r\nHost: shop.example\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

fn has(program: &str, version: &str) -> bool {
    let found = Command::new(program).arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        println!("skipped: no {program}");
    }
    found
}

fn packet(from: ([u8; 4], u16), to: ([u8; 4], u16), seq: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 8, 0, 0x45, 0];
    f.extend((40 + payload.len() as u16).to_be_bytes());
    f.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    f.extend(from.0);
    f.extend(to.0);
    let sum = f[14..34].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum::<u32>();
    let check = !((sum & 0xffff) as u16 + (sum >> 16) as u16);
    f[24..26].copy_from_slice(&check.to_be_bytes());
    f.extend(from.1.to_be_bytes());
    f.extend(to.1.to_be_bytes());
    f.extend(seq.to_be_bytes());
    f.extend([0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    f.extend(payload);
    f
}

/// One HTTP exchange, closed by both sides: frames from the client's side and from the server's.
fn exchange() -> [Vec<Vec<u8>>; 2] {
    let (c, s) = ((CLIENT, 40_000), (SERVER, 80));
    let there = [(999, 2, &b""[..]), (1000, 0x18, REQUEST), (1000 + REQUEST.len() as u32, 0x11, b"")];
    let back = [(4999, 0x12, &b""[..]), (5000, 0x18, ANSWER), (5000 + ANSWER.len() as u32, 0x11, b"")];
    let made = |list: [(u32, u8, &[u8]); 3], from, to| {
        list.iter().map(|(seq, flags, payload)| packet(from, to, *seq, *flags, payload)).collect()
    };
    [made(there, c, s), made(back, s, c)]
}

fn pcap(path: &Path, frames: impl Iterator<Item = (u32, Vec<u8>)>) {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for (microseconds, frame) in frames {
        for word in [1_700_000_000, microseconds, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    std::fs::write(path, file).unwrap();
}

const APPLICATION: &str = "[[application]]\nname = \"catalogue\"\nhost = [\"shop.*\"]\nport = [80]\n";

/// Replays the exchange with records to `collector` and into a log, whose text is returned.
fn run(folder: &Path, collector: &str) -> String {
    let sides = exchange();
    let inputs: Vec<(usize, PathBuf)> = (0..2)
        .map(|side| {
            let path = folder.join(format!("{side}.pcap"));
            let times = (0..).map(|i| i * 1000 + side as u32 * 300);
            pcap(&path, times.zip(sides[side].iter().cloned()));
            (side, path)
        })
        .collect();
    let policy = folder.join("policy.toml");
    let ports = ["a", "b"].map(|n| format!("[[port]]\nname = \"{n}\"\nkind = \"pcap\"\n")).concat();
    std::fs::write(&policy, format!("[export]\nipfix = \"{collector}\"\nlog = \"flows.ndjson\"\n{ports}{APPLICATION}"))
        .unwrap();
    let policy = config::load(&policy).unwrap();
    let report = replay(policy, &inputs, &[]).unwrap();
    assert_eq!(report.packets_in, 6);
    std::fs::read_to_string(folder.join("flows.ndjson")).unwrap()
}

/// Of IP packets: frames less their Ethernet header.
fn bytes(frames: &[Vec<u8>]) -> u64 {
    frames.iter().map(|f| f.len() as u64 - 14).sum()
}

#[test]
fn nfcapd_stores_what_the_log_says() {
    if !has("nfcapd", "-V") || !has("nfdump", "-V") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    std::fs::create_dir(&store).unwrap();
    // A free port of the moment: somebody else may take it until nfcapd has it, and then nfcapd says so and ends.
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut collector = Command::new("nfcapd")
        .args(["-b", "127.0.0.1", "-p", &port.to_string(), "-t", "60", "-l"])
        .arg(&store)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let up = || std::fs::read_to_string("/proc/net/udp").unwrap().contains(&format!(":{port:04X} "));
    let deadline = Instant::now() + Duration::from_secs(20);
    while !up() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    let log = run(folder.path(), &format!("127.0.0.1:{port}"));
    std::thread::sleep(Duration::from_millis(500));
    // SAFETY: a signal to a child that was not waited for yet.
    unsafe { libc::kill(collector.id() as i32, libc::SIGTERM) };
    collector.wait().unwrap();

    let line: serde_json::Value = serde_json::from_str(log.trim_end()).unwrap();
    assert_eq!(
        (&line["class"], &line["host"], &line["reason"]),
        (&"http".into(), &"shop.example".into(), &"end_of_flow".into())
    );
    assert_eq!(line["application"], "catalogue");
    let out = Command::new("nfdump")
        .args(["-q", "-o", "fmt:%sa %da %sp %dp %pr %ipkt %ibyt %opkt %obyt", "-R"])
        .arg(&store)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let stored: Vec<&str> = text.split_whitespace().collect();
    let [there, back] = exchange();
    let (a, b) = (bytes(&there).to_string(), bytes(&back).to_string());
    assert_eq!(
        stored,
        ["192.0.2.1", "198.51.100.2", "40000", "80", "TCP", "3", &a, "3", &b],
        "{text}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    assert_eq!((line["bytes_ab"].to_string(), line["bytes_ba"].to_string()), (a, b));
}

#[test]
fn tshark_understands_every_field() {
    if !has("tshark", "-v") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    collector.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    run(folder.path(), &collector.local_addr().unwrap().to_string());
    let mut frames = Vec::new();
    let mut buffer = [0; 2048];
    while let Ok(n) = collector.recv(&mut buffer) {
        let mut f = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 8, 0, 0x45, 0];
        f.extend((28 + n as u16).to_be_bytes());
        f.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x9c, 0x40, 0x12, 0x83]);
        f.extend((8 + n as u16).to_be_bytes());
        f.extend([0, 0]);
        f.extend(&buffer[..n]);
        frames.push(f);
    }
    assert_eq!(frames.len(), 2, "templates, and one message of records");
    let path = folder.path().join("ipfix.pcap");
    pcap(&path, (0..).zip(frames));
    let fields = [
        "srcaddr",
        "dstaddr",
        "srcport",
        "dstport",
        "protocol",
        "octets",
        "packets",
        "appl_name",
        "flow_end_reason",
        "biflow_direction",
    ];
    let mut tshark = Command::new("tshark");
    tshark.args(["-r"]).arg(&path).args(["-Y", "cflow.srcaddr", "-T", "fields", "-E", "separator=/s"]);
    for field in fields {
        tshark.args(["-e", &format!("cflow.{field}")]);
    }
    let out = tshark.args(["-e", "_ws.expert.message", "-e", "_ws.malformed"]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let [there, back] = exchange();
    let (a, b) = (bytes(&there), bytes(&back));
    let wanted = format!("192.0.2.1 198.51.100.2 40000 80 6 {a},{b} 3,3 catalogue 3 1");
    assert_eq!(text.trim(), wanted, "{}", String::from_utf8_lossy(&out.stderr));
    let verbose = Command::new("tshark").args(["-V", "-r"]).arg(&path).output().unwrap();
    let verbose = String::from_utf8_lossy(&verbose.stdout).into_owned();
    assert!(
        verbose.contains("73 68 6f 70 2e 65 78 61 6d 70 6c 65"),
        "the host name, in an element of documentation:\n{verbose}"
    );
}
