//! Databases and storage.

pub mod cassandra;
pub mod ceph;
pub mod elasticsearch;
pub mod iscsi;
pub mod memcached;
pub mod mongodb;
pub mod mysql;
pub mod nvme_tcp;
pub mod oracle;
pub mod postgresql;
pub mod redis;
pub mod tds;

use super::{Recogniser, Starts};

pub static RECOGNISERS: &[Recogniser] = &[
    Recogniser::tcp("mysql", Starts::Any, mysql::look),
    Recogniser::tcp("postgresql", Starts::With(b"\0RESQPBTZCDKvtNA"), postgresql::look),
    Recogniser::tcp("tds", Starts::With(&[0x04, 0x10, 0x12]), tds::look),
    Recogniser::tcp("oracle", Starts::Within(0, 0x20), oracle::look),
    Recogniser::tcp("mongodb", Starts::Any, mongodb::look),
    Recogniser::tcp("redis", Starts::With(b"*+-$:%pPiI"), redis::look),
    Recogniser {
        name: "memcached",
        tcp: Some((Starts::Any, memcached::look)),
        udp: Some((Starts::Any, memcached::look_udp)),
    },
    Recogniser::tcp("cassandra", Starts::With(&[1, 2, 3, 4, 5, 0x81, 0x82, 0x83, 0x84, 0x85, 0xca]), cassandra::look),
    Recogniser::tcp("elasticsearch", Starts::With(b"E"), elasticsearch::look),
    Recogniser::tcp("nvme_tcp", Starts::Within(0, 9), nvme_tcp::look),
    Recogniser::tcp("iscsi", Starts::With(&[0x01, 0x03, 0x21, 0x23, 0x43]), iscsi::look),
    Recogniser::tcp("ceph", Starts::With(b"c"), ceph::look),
];
