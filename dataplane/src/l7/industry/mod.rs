//! Plants, buildings, vehicles and things.

pub mod bacnet;
pub mod coap;
pub mod dnp3;
pub mod ethernet_ip;
pub mod iec104;
pub mod modbus;
pub mod opcua;
pub mod s7;
pub mod someip;

use super::{Recogniser, Starts};

/// EtherNet/IP's commands.
const COMMANDS: Starts = Starts::With(&[0x04, 0x63, 0x64, 0x65, 0x66, 0x6f, 0x70]);

pub static RECOGNISERS: &[Recogniser] = &[
    Recogniser::tcp("s7", Starts::With(&[3]), s7::look),
    Recogniser {
        name: "dnp3",
        tcp: Some((Starts::With(&[5]), dnp3::look)),
        udp: Some((Starts::With(&[5]), dnp3::look)),
    },
    Recogniser::tcp("iec104", Starts::With(&[0x68]), iec104::look),
    Recogniser::tcp("opcua", Starts::With(b"HAOMC"), opcua::look),
    Recogniser::udp("bacnet", Starts::With(&[0x81]), bacnet::look),
    Recogniser {
        name: "ethernet_ip",
        tcp: Some((COMMANDS, ethernet_ip::look)),
        udp: Some((COMMANDS, ethernet_ip::look)),
    },
    Recogniser { name: "someip", tcp: Some((Starts::Any, someip::look)), udp: Some((Starts::Any, someip::look)) },
    Recogniser::udp("coap", Starts::Within(0x40, 0x7f), coap::look),
    // Transaction numbers come first.
    Recogniser::tcp("modbus", Starts::Any, modbus::look),
];
