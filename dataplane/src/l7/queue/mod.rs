//! Message queues, brokers and coordination; AJP, which carries requests to servers of applications.

pub mod ajp;
pub mod amqp;
pub mod etcd;
pub mod kafka;
pub mod mqtt;
pub mod nats;
pub mod stomp;
pub mod zookeeper;

use super::{Recogniser, Starts};

pub static RECOGNISERS: &[Recogniser] = &[
    Recogniser::tcp("amqp", Starts::With(&[b'A', 0, 1, 2, 8]), amqp::look),
    Recogniser::tcp("stomp", Starts::With(b"CSMEDARU\n"), stomp::look),
    Recogniser::tcp("nats", Starts::With(b"IiCcPpMmSsUuH+-"), nats::look),
    Recogniser::tcp("mqtt", Starts::With(&[0x10, 0x20, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x82, 0x90]), mqtt::look),
    Recogniser::tcp("ajp", Starts::With(&[0x12, b'A']), ajp::look),
    Recogniser::tcp("zookeeper", Starts::With(b"\0cdeimrsw"), zookeeper::look),
    Recogniser::tcp("kafka", Starts::With(&[0]), kafka::look),
];
