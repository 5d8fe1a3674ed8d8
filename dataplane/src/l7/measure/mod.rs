//! Measuring tools.

pub mod iperf3;

use super::{Recogniser, Starts};

pub static RECOGNISERS: &[Recogniser] = &[Recogniser {
    name: "iperf3",
    tcp: Some((Starts::Any, iperf3::look_tcp)),
    udp: Some((Starts::Any, iperf3::look_udp)),
}];
