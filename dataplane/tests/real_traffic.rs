//! Recognisers for which the large collection of captures has no traffic, on small captures of real programs
//! (`tests/real/README.md`).
#![allow(clippy::unwrap_used)]

use std::path::Path;

use softdpu::cli::classify::classify_file;

/// File, class of all its flows, and how many there are.
const FILES: [(&str, &str, usize); 13] = [
    ("imap", "imap", 1),
    ("iscsi", "iscsi", 2),
    ("kafka", "kafka", 1),
    ("l2tp", "l2tp", 1),
    ("mongodb", "mongodb", 1),
    ("nats", "nats", 1),
    ("proxy", "proxy_protocol", 2),
    ("redis", "redis", 2),
    ("sflow", "sflow", 1),
    ("smtp", "smtp", 1),
    ("tds", "tds", 1),
    ("zabbix", "zabbix", 2),
    ("zookeeper", "zookeeper", 2),
];

#[test]
fn programs_are_told_by_what_they_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real");
    for (file, class, flows) in FILES {
        let (rows, summary, read) = classify_file(&folder.join(format!("{file}.pcap")));
        read.unwrap();
        assert_eq!((rows.len(), summary.skipped), (flows, 0), "{file}");
        for row in rows {
            assert_eq!((row.protocol.as_str(), row.by.as_str()), (class, "payload"), "{file} {} {}", row.a, row.b);
        }
    }
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), FILES.len() + 1, "each file is named here");
}
