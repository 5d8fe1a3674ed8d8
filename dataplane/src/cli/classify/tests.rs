#![allow(clippy::unwrap_used)]
use super::*;

const HTTP: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

/// An IP packet with a TCP header, IPv4 or IPv6.
fn ip(v6: bool, swap: bool, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut p = Vec::new();
    let (a, b) = if swap { (2, 1) } else { (1, 2) };
    let tcp = 20 + payload.len();
    if v6 {
        p.extend([0x60, 0, 0, 0]);
        p.extend((tcp as u16).to_be_bytes());
        p.extend([6, 64]);
        for end in [a, b] {
            p.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, end]);
        }
    } else {
        p.extend([0x45, 0]);
        p.extend(((20 + tcp) as u16).to_be_bytes());
        p.extend([0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, a, 192, 0, 2, b]);
    }
    let (sport, dport) = if swap { (80u16, 4000u16) } else { (4000, 80) };
    p.extend(sport.to_be_bytes());
    p.extend(dport.to_be_bytes());
    p.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
    p.extend(payload);
    p
}

/// A little-endian pcap file; each packet captured to at most `snap` bytes.
fn pcap(link: u32, snap: usize, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut f = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    f.extend(65_535u32.to_le_bytes());
    f.extend(link.to_le_bytes());
    for (i, p) in packets.iter().enumerate() {
        let kept = p.len().min(snap);
        for word in [i as u32 * 3600, 0, kept as u32, p.len() as u32] {
            f.extend(word.to_le_bytes());
        }
        f.extend(&p[..kept]);
    }
    f
}

/// The same as pcapng, big endian.
fn pcapng(link: u16, packets: &[Vec<u8>]) -> Vec<u8> {
    let block = |kind: u32, body: &[u8]| {
        let mut body = body.to_vec();
        body.resize(body.len().next_multiple_of(4), 0);
        let len = (body.len() as u32 + 12).to_be_bytes();
        [&kind.to_be_bytes()[..], &len, &body, &len].concat()
    };
    let mut f = block(0x0a0d_0d0a, &[&[0x1a, 0x2b, 0x3c, 0x4d, 0, 1, 0, 0][..], &[0xff; 8]].concat());
    f.extend(block(1, &[&link.to_be_bytes()[..], &[0, 0, 0, 0, 0xff, 0xff]].concat()));
    for p in packets {
        let len = (p.len() as u32).to_be_bytes();
        f.extend(block(6, &[&[0; 12][..], &len, &len, p].concat()));
    }
    f
}

fn conversation(v6: bool, link: &[u8]) -> Vec<Vec<u8>> {
    let packets = [ip(v6, true, 0x12, b""), ip(v6, false, 0x10, HTTP), ip(v6, true, 0x10, b"HTTP/1.1 200 OK\r\n")];
    packets.iter().map(|p| [link, p].concat()).collect()
}

fn classify(dir: &Path, file: &[u8]) -> FlowRow {
    let path = dir.join("x.pcap");
    std::fs::write(&path, file).unwrap();
    let (mut rows, summary, result) = classify_file(&path);
    result.unwrap();
    assert_eq!((rows.len(), summary.packets, summary.skipped), (1, 3, 0));
    rows.remove(0)
}

#[test]
fn every_link_type_gives_the_same_flow() {
    let dir = tempfile::tempdir().unwrap();
    let mut ethernet = [0u8; 14];
    ethernet[12] = 8;
    let mut cooked = [0u8; 16];
    cooked[14] = 8;
    let mut cooked2 = [0u8; 20];
    cooked2[0] = 8;
    let links: [(u32, &[u8]); 9] = [
        (1, &ethernet),
        (101, &[]),
        (228, &[]),
        (113, &cooked),
        (276, &cooked2),
        (0, &[2, 0, 0, 0]),
        (108, &[0, 0, 0, 2]),
        (9, &[0xff, 3, 0, 0x21]),
        (104, &[0x0f, 0, 8, 0]),
    ];
    for (link, header) in links {
        let packets = conversation(false, header);
        let bytes = packets.iter().map(|p| p.len() as u64).sum();
        for file in [pcap(link, 65_535, &packets), pcapng(link as u16, &packets)] {
            let row = classify(dir.path(), &file);
            assert_eq!((row.a.as_str(), row.b.as_str()), ("192.0.2.1:4000", "192.0.2.2:80"), "{link}");
            assert_eq!((row.l4.as_str(), row.protocol.as_str(), row.host.as_str()), ("TCP", "http", "a.example"));
            assert_eq!((row.packets, row.bytes, row.file.as_str()), (3, bytes, "x.pcap"));
        }
    }
}

#[test]
fn ipv6_stands_in_brackets_and_cut_packets_still_count_in_full() {
    let dir = tempfile::tempdir().unwrap();
    let packets = conversation(true, &[]);
    // Headers are 60 bytes; of the request the method and the version line survive.
    let row = classify(dir.path(), &pcap(101, 60 + 20, &packets));
    assert_eq!((row.a.as_str(), row.b.as_str()), ("[2001:db8::1]:4000", "[2001:db8::2]:80"));
    assert_eq!((row.protocol.as_str(), row.host.as_str()), ("http", ""));
    assert_eq!(row.bytes, packets.iter().map(|p| p.len() as u64).sum::<u64>());
}

#[test]
fn a_bad_file_is_named_and_the_others_are_still_there() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good.pcap");
    let cut = dir.path().join("cut.pcap");
    let whole = pcap(101, 65_535, &conversation(false, &[]));
    std::fs::write(&good, &whole).unwrap();
    std::fs::write(&cut, &whole[..whole.len() - 1]).unwrap();
    let files = [cut, dir.path().join("none.pcap"), good];
    let mut out = Vec::new();
    let e = run(&files, None, true, &mut out).unwrap_err().to_string();
    let last = whole.len() - 16 - (40 + 17);
    assert!(e.contains("2 of 3 files"), "{e}");
    assert!(e.contains(&format!("cut.pcap: byte {last}: the file ends in the middle of a packet")), "{e}");
    assert!(e.contains("none.pcap: cannot be opened"), "{e}");
    let rows: Vec<serde_json::Value> =
        String::from_utf8(out).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[0]["file"], &rows[0]["packets"]), (&"cut.pcap".into(), &2.into()));
    assert_eq!(
        rows[1],
        serde_json::json!({"file": "good.pcap", "l4": "TCP", "a": "192.0.2.1:4000", "b": "192.0.2.2:80",
            "protocol": "http", "host": "a.example", "by": "payload", "host_by": "payload", "alpn": "",
            "facts": {"method": "GET", "path": "/"}, "packets": 3, "bytes": 40 * 3 + HTTP.len() + 17})
    );
}

#[test]
fn the_table_lines_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("good.pcap");
    std::fs::write(&path, pcap(101, 65_535, &conversation(false, &[]))).unwrap();
    let mut out = Vec::new();
    let sum = run(&[path], None, false, &mut out).unwrap();
    assert_eq!((sum.flows, sum.packets), (1, 3));
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    for (head, cell) in [("PROTOCOL", "http"), ("HOST", "a.example"), ("A ", "192.0.2.1:4000")] {
        assert_eq!(lines[0].find(head), lines[1].find(cell), "{text}");
    }
    assert_eq!(lines[0].len(), lines[1].len());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]

    /// A damaged file is an error or fewer flows, never a panic.
    #[test]
    fn damaged_files_are_survived(ng: bool, flips in proptest::collection::vec((proptest::prelude::any::<usize>(), proptest::prelude::any::<u8>()), 1..6), cut: usize) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let packets = conversation(false, &[]);
        let mut file = if ng { pcapng(101, &packets) } else { pcap(101, 65_535, &packets) };
        for (at, with) in flips {
            // Mostly in the file's own headers, which stand at the front.
            let n = if at & 1 == 0 { file.len() } else { file.len().min(60) };
            file[at / 2 % n] = with;
        }
        file.truncate(file.len() - if cut.is_multiple_of(3) { cut % file.len() } else { 0 });
        std::fs::write(&path, &file).unwrap();
        let (rows, summary, _) = classify_file(&path);
        proptest::prop_assert!(rows.len() as u64 <= summary.packets && summary.packets <= file.len() as u64 / 16);
    }
}
