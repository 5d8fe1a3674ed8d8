//! What networks run themselves by: addresses, time, management, flow export, routing.

pub mod bgp;
pub mod dhcp;
pub mod dhcpv6;
pub mod netbios;
pub mod netflow;
pub mod ntp;
pub mod radius;
pub mod read;
pub mod sflow;
pub mod snmp;
pub mod ssdp;
pub mod syslog;
#[cfg(test)]
pub(in crate::l7) mod testing;
pub mod tftp;
pub mod zabbix;

use super::{Recogniser, Starts};

pub static RECOGNISERS: &[Recogniser] = &[
    Recogniser::udp("ssdp", Starts::With(b"MNH"), ssdp::look),
    Recogniser::udp("snmp", Starts::With(&[0x30]), snmp::look),
    Recogniser::udp("dhcp", Starts::Within(1, 2), dhcp::look),
    Recogniser::udp("dhcpv6", Starts::Within(1, 36), dhcpv6::look),
    Recogniser {
        name: "netbios",
        tcp: Some((Starts::Within(0x81, 0x85), netbios::look_session)),
        udp: Some((Starts::Within(0x10, 0x16), netbios::look_datagram)),
    },
    Recogniser {
        name: "netflow",
        tcp: Some((Starts::With(&[0]), netflow::look_tcp)),
        udp: Some((Starts::With(&[0]), netflow::look_udp)),
    },
    Recogniser::udp("sflow", Starts::With(&[0]), sflow::look),
    Recogniser::udp("tftp", Starts::With(&[0]), tftp::look),
    Recogniser::udp("radius", Starts::Within(1, 45), radius::look),
    Recogniser {
        name: "syslog",
        tcp: Some((Starts::With(b"<123456789"), syslog::look_tcp)),
        udp: Some((Starts::With(b"<"), syslog::look_udp)),
    },
    Recogniser::tcp("bgp", Starts::With(&[0xff]), bgp::look),
    Recogniser::tcp("zabbix", Starts::With(b"Z"), zabbix::look),
    // Any first byte but those of versions 0, 5, 6 and 7.
    Recogniser::udp("ntp", Starts::Any, ntp::look),
];
