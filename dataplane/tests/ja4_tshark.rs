//! JA4 of the hellos in real captures, against what its specification makes of the fields that tshark dissects.
//!
//! tshark gives the lists of `signature_algorithms`, `signature_algorithms_cert` and `delegated_credential` one and the same
//! name, so a list must be taken by the extension that it stands in: only the first counts (FoxIO, technical_details/JA4.md).
//! Without tshark or the captures the test says so and passes.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use softdpu::cli::classify::classify_file;

/// Captures of browsers and others, some with delegated credentials; DTLS among them.
const FILES: [&str; 8] = [
    "sites.pcapng",
    "android.pcap",
    "signal.pcap",
    "yandex.pcapng",
    "http_ipv6.pcap",
    "cloudflare-warp.pcap",
    "stun.pcap",
    "stun_dtls_rtp.pcapng",
];
const SIGNATURE_ALGORITHMS: u16 = 13;

fn folder() -> Option<PathBuf> {
    let named = std::env::var_os("SOFTDPU_CAPTURES").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/captures");
    named.or(Some(beside)).filter(|p| p.join("labels.csv").is_file())
}

/// What of a hello goes into its fingerprint.
#[derive(Default)]
struct Hello {
    datagrams: bool,
    legacy: Option<u16>,
    versions: Vec<u16>,
    ciphers: Vec<u16>,
    extensions: Vec<u16>,
    signatures: Vec<u16>,
    alpn: Option<String>,
}

/// RFC 8701.
fn grease(v: &u16) -> bool {
    v & 0x0f0f == 0x0a0a && v >> 8 == v & 0xff
}

fn list(of: &[u16]) -> String {
    of.iter().map(|v| format!("{v:04x}")).collect::<Vec<_>>().join(",")
}

fn hash(text: &str) -> String {
    if text.is_empty() {
        return "0".repeat(12);
    }
    let sum = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    sum.as_ref()[..6].iter().map(|b| format!("{b:02x}")).collect()
}

impl Hello {
    fn ja4(&self) -> String {
        let [mut ciphers, mut extensions, signatures, versions] =
            [&self.ciphers, &self.extensions, &self.signatures, &self.versions]
                .map(|l| l.iter().copied().filter(|v| !grease(v)).collect::<Vec<u16>>());
        let newest = if self.datagrams { versions.iter().min() } else { versions.iter().max() };
        let version = match newest.copied().or(self.legacy).unwrap() {
            0x0304 => "13",
            0x0303 => "12",
            0x0302 => "11",
            0x0301 => "10",
            0x0300 => "s3",
            0xfeff => "d1",
            0xfefd => "d2",
            0xfefc => "d3",
            _ => "00",
        };
        let alpn = self.alpn.as_ref().filter(|a| !a.is_empty());
        let ends = alpn.map_or("00".to_owned(), |a| [&a[..1], &a[a.len() - 1..]].concat());
        let head = format!(
            "{}{version}{}{:02}{:02}{ends}",
            if self.datagrams { 'd' } else { 't' },
            if extensions.contains(&0) { 'd' } else { 'i' },
            ciphers.len().min(99),
            extensions.len().min(99),
        );
        ciphers.sort_unstable();
        extensions.sort_unstable();
        extensions.retain(|e| !matches!(e, 0 | 16));
        let behind = if signatures.is_empty() { String::new() } else { format!("_{}", list(&signatures)) };
        let third = if extensions.is_empty() { String::new() } else { list(&extensions) + &behind };
        format!("{head}_{}_{}", hash(&list(&ciphers)), hash(&third))
    }
}

/// The value of an attribute of a line of PDML.
fn attribute<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let from = line.find(&format!(" {name}=\""))? + name.len() + 3;
    line[from..].split('"').next()
}

fn number(text: &str) -> u16 {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u16::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.unwrap_or_default()
}

/// The first hello of each client, by the client's port.
fn dissected(file: &Path) -> Option<HashMap<u16, Hello>> {
    let filter = "(tls.handshake.type==1 && tcp) || dtls.handshake.type==1";
    let out = Command::new("tshark").arg("-r").arg(file).args(["-Y", filter, "-T", "pdml"]).output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut hellos: HashMap<u16, Hello> = HashMap::new();
    let (mut port, mut open, mut extension) = (0, None::<Hello>, 0);
    for line in text.lines() {
        if line.contains("</packet>") {
            // One that was cut short has no extensions yet; the whole one follows.
            if let Some(hello) = open.take() {
                hellos.entry(port).or_insert(hello);
            }
            continue;
        }
        let (Some(name), Some(show)) = (attribute(line, "name"), attribute(line, "show")) else { continue };
        let (name, datagrams) = match name.strip_prefix('d') {
            Some(rest) if rest.starts_with("tls.") => (rest, true),
            _ => (name, false),
        };
        if matches!(name, "tcp.srcport" | "udp.srcport") {
            port = number(show);
        }
        if name == "tls.handshake.type" && show == "1" && open.is_none() {
            open = Some(Hello { datagrams, ..Hello::default() });
        }
        let Some(h) = &mut open else { continue };
        match name {
            "tls.handshake.version" => h.legacy = h.legacy.or(Some(number(show))),
            "tls.handshake.ciphersuite" => h.ciphers.push(number(show)),
            "tls.handshake.extension.type" => {
                extension = number(show);
                h.extensions.push(extension);
            }
            "tls.handshake.extensions.supported_version" => h.versions.push(number(show)),
            "tls.handshake.extensions_alpn_str" => h.alpn = h.alpn.take().or(Some(show.to_owned())),
            "tls.handshake.sig_hash_alg" if extension == SIGNATURE_ALGORITHMS => h.signatures.push(number(show)),
            _ => {}
        }
    }
    Some(hellos)
}

#[test]
fn fingerprints_are_what_the_specification_makes_of_tsharks_fields() {
    let Some(folder) = folder() else {
        eprintln!("SKIPPED: no captures; SOFTDPU_CAPTURES names their folder");
        return;
    };
    if Command::new("tshark").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no tshark");
        return;
    }
    let (mut same, mut differ) = (0, Vec::new());
    for file in FILES.map(|f| folder.join(f)) {
        let hellos = dissected(&file).unwrap();
        let (rows, _, _) = classify_file(&file);
        for row in rows {
            let port = row.a.rsplit(':').next().unwrap().parse().unwrap();
            let (Some(ours), Some(hello)) = (row.facts.get("ja4"), hellos.get(&port)) else { continue };
            // QUIC's hellos are not asked for: the filter is TCP's and DTLS's.
            if ours.starts_with('q') || ours.starts_with('d') != hello.datagrams {
                continue;
            }
            if *ours == hello.ja4() {
                same += 1;
            } else {
                differ.push(format!("{} {}: {ours}, by tshark's fields {}", row.file, row.a, hello.ja4()));
            }
        }
    }
    println!("{same} the same");
    assert!(differ.is_empty(), "{differ:#?}");
    assert!(same > 20);
}
