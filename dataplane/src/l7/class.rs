//! What a flow can be recognised as. Numbers and names are stable: they are in configs, metrics and exports.

macro_rules! classes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)+) => {
        /// Application protocol of a flow.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        #[repr(u16)]
        pub enum Class {
            $($(#[$doc])* $variant = $number,)+
        }

        /// Place in [`Class::ALL`] by number: the numbers have gaps, counters must not.
const PLACES: [u8; 256] = {
    let mut places = [0; 256];
    let mut at = 0;
    while at < Class::ALL.len() {
        places[Class::ALL[at] as usize] = at as u8;
        at += 1;
    }
    places
};

impl Class {
    /// Place in [`Self::ALL`] of the class with this number.
    #[inline]
    pub fn place(number: u16) -> usize {
        usize::from(PLACES[usize::from(number.min(255))])
    }

            /// In order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Names in the order of [`Self::ALL`].
            pub const NAMES: &'static [&'static str] = &[$($name,)+];

            /// Lower case, as in configs and exports.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// Of `Flow::class`. A number that no class has is `Unknown`.
            pub fn from_number(n: u16) -> Self {
                match n {
                    $($number => Self::$variant,)+
                    _ => Self::Unknown,
                }
            }
        }
    };
}

classes! {
    #[default]
    Unknown = 0, "unknown";
    Tls = 1, "tls";
    Http = 2, "http";
    /// Requests with an absolute target (RFC 9112 §3.2.2): what a client tells a proxy.
    HttpProxy = 3, "http_proxy";
    HttpConnect = 4, "http_connect";
    Dns = 5, "dns";
    Mdns = 6, "mdns";
    Llmnr = 7, "llmnr";
    Netbios = 8, "netbios";
    Iperf3 = 9, "iperf3";
    Ssh = 10, "ssh";
    /// Told by its certificate query, which is DNS; what follows is not.
    Dnscrypt = 11, "dnscrypt";
    Dtls = 12, "dtls";
    Quic = 13, "quic";
    /// HTTP/2 in clear.
    Http2 = 14, "http2";
    Grpc = 15, "grpc";
    Websocket = 16, "websocket";
    /// DNS over TLS, HTTPS and QUIC, told by ALPN or a resolver's name.
    Dot = 17, "dot";
    Doh = 18, "doh";
    Doq = 19, "doq";
    Ssdp = 20, "ssdp";
    Ntp = 21, "ntp";
    Dhcp = 22, "dhcp";
    Dhcpv6 = 23, "dhcpv6";
    Snmp = 24, "snmp";
    Syslog = 25, "syslog";
    Radius = 26, "radius";
    Tftp = 27, "tftp";
    Telnet = 28, "telnet";
    Ftp = 29, "ftp";
    FtpData = 30, "ftp_data";
    Smtp = 31, "smtp";
    Imap = 32, "imap";
    Pop3 = 33, "pop3";
    Ldap = 34, "ldap";
    Kerberos = 35, "kerberos";
    Smb = 36, "smb";
    Nfs = 37, "nfs";
    /// ONC RPC other than NFS.
    Sunrpc = 38, "sunrpc";
    Dcerpc = 39, "dcerpc";
    Rdp = 40, "rdp";
    Vnc = 41, "vnc";
    Sip = 42, "sip";
    Rtp = 43, "rtp";
    Rtcp = 44, "rtcp";
    Rtsp = 45, "rtsp";
    Rtmp = 46, "rtmp";
    /// STUN and TURN.
    Stun = 47, "stun";
    Wireguard = 48, "wireguard";
    Openvpn = 49, "openvpn";
    Ike = 50, "ike";
    L2tp = 51, "l2tp";
    Pptp = 52, "pptp";
    Vxlan = 53, "vxlan";
    Geneve = 54, "geneve";
    GtpU = 55, "gtp_u";
    GtpC = 56, "gtp_c";
    Teredo = 57, "teredo";
    Bgp = 58, "bgp";
    Mysql = 59, "mysql";
    Postgresql = 60, "postgresql";
    /// Microsoft SQL Server.
    Tds = 61, "tds";
    Oracle = 62, "oracle";
    Mongodb = 63, "mongodb";
    Redis = 64, "redis";
    Memcached = 65, "memcached";
    Cassandra = 66, "cassandra";
    Elasticsearch = 67, "elasticsearch";
    Kafka = 68, "kafka";
    Amqp = 69, "amqp";
    Mqtt = 70, "mqtt";
    Nats = 71, "nats";
    Stomp = 72, "stomp";
    Coap = 73, "coap";
    Zookeeper = 74, "zookeeper";
    Etcd = 75, "etcd";
    NvmeTcp = 76, "nvme_tcp";
    Iscsi = 77, "iscsi";
    Ceph = 78, "ceph";
    Modbus = 79, "modbus";
    Dnp3 = 80, "dnp3";
    Iec104 = 81, "iec104";
    Opcua = 82, "opcua";
    Bacnet = 83, "bacnet";
    EthernetIp = 84, "ethernet_ip";
    S7 = 85, "s7";
    Someip = 86, "someip";
    Bittorrent = 87, "bittorrent";
    Socks = 88, "socks";
    /// HAProxy's PROXY protocol; what follows it is not told.
    ProxyProtocol = 89, "proxy_protocol";
    Git = 90, "git";
    Rsync = 91, "rsync";
    Xmpp = 92, "xmpp";
    Irc = 93, "irc";
    Netflow = 94, "netflow";
    Ipfix = 95, "ipfix";
    Sflow = 96, "sflow";
    Zabbix = 97, "zabbix";
    Nntp = 98, "nntp";
    Ajp = 99, "ajp";
    // By IP protocol number.
    Icmp = 100, "icmp";
    Icmpv6 = 101, "icmpv6";
    Igmp = 102, "igmp";
    /// ESP and AH.
    Ipsec = 103, "ipsec";
    Gre = 104, "gre";
    Ospf = 105, "ospf";
    Vrrp = 106, "vrrp";
    Sctp = 107, "sctp";
}

impl Class {
    pub fn number(self) -> u16 {
        self as u16
    }

    /// The class called `name`: for configs.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|c| c.name() == name)
    }

    /// What an IP protocol number alone says for certain (IANA "Assigned Internet Protocol Numbers").
    pub fn of_ip_protocol(proto: u8) -> Option<Self> {
        Some(match proto {
            1 => Self::Icmp,
            2 => Self::Igmp,
            47 => Self::Gre,
            50 | 51 => Self::Ipsec,
            58 => Self::Icmpv6,
            89 => Self::Ospf,
            112 => Self::Vrrp,
            132 => Self::Sctp,
            _ => return None,
        })
    }
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What a recognition rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum By {
    #[default]
    Nothing = 0,
    /// Application bytes.
    Payload = 1,
    /// The handshake of an encrypted protocol.
    Handshake = 2,
    /// The IP protocol number.
    Protocol = 3,
    /// Nothing but the port: what is commonly there. Never a recognition.
    Port = 4,
    /// The server's address, learnt from a DNS answer.
    Dns = 5,
}

impl By {
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Payload => "payload",
            Self::Handshake => "handshake",
            Self::Protocol => "protocol",
            Self::Port => "port",
            Self::Dns => "dns",
        }
    }

    fn from_number(n: u8) -> Self {
        match n {
            1 => Self::Payload,
            2 => Self::Handshake,
            3 => Self::Protocol,
            4 => Self::Port,
            5 => Self::Dns,
            HANDSHAKE_HOST_BY_DNS => Self::Handshake,
            _ => Self::Nothing,
        }
    }
}

/// The first protocol a TLS client offers by ALPN (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Alpn {
    /// No ALPN extension.
    #[default]
    None = 0,
    /// One that has no name here.
    Other = 1,
    Http10 = 2,
    Http11 = 3,
    H2 = 4,
    H3 = 5,
    Dot = 6,
    Doq = 7,
    Ftp = 8,
    Imap = 9,
    Pop3 = 10,
    Mqtt = 11,
    Acme = 12,
}

impl Alpn {
    const NAMES: [(Self, &'static str); 11] = [
        (Self::Http10, "http/1.0"),
        (Self::Http11, "http/1.1"),
        (Self::H2, "h2"),
        (Self::H3, "h3"),
        (Self::Dot, "dot"),
        (Self::Doq, "doq"),
        (Self::Ftp, "ftp"),
        (Self::Imap, "imap"),
        (Self::Pop3, "pop3"),
        (Self::Mqtt, "mqtt"),
        (Self::Acme, "acme-tls/1"),
    ];

    /// Registered identifiers that are told apart.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().map(|(_, name)| *name)
    }

    /// Of the identifier as it stands in the extension.
    pub fn of(id: &[u8]) -> Self {
        Self::NAMES.iter().find(|(_, n)| n.as_bytes() == id).map_or(Self::Other, |(a, _)| *a)
    }

    /// The registered identifier; empty for `None`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Other => "other",
            known => Self::NAMES.iter().find(|(a, _)| *a == known).map_or("", |(_, n)| n),
        }
    }

    fn from_number(n: u8) -> Self {
        match n {
            0 => Self::None,
            n => Self::NAMES.iter().map(|(a, _)| *a).find(|a| *a as u8 == n).unwrap_or(Self::Other),
        }
    }
}

/// `Flow::l7_info`: ALPN in the low nibble, then three bits of [`By`], then [`SETTLED`].
const BY: u8 = 4;
const SETTLED: u8 = 0x80;
/// Beside the numbers of [`By`]: by handshake, and the host's name by DNS.
const HANDSHAKE_HOST_BY_DNS: u8 = 6;

impl crate::flow::Flow {
    /// What the flow carries, as far as is known.
    pub fn class(&self) -> Class {
        Class::from_number(self.class)
    }

    fn by_number(&self) -> u8 {
        self.l7_info >> BY & 7
    }

    /// What [`Self::class`] rests on. `Dns`: there is no class, but a host name.
    pub fn by(&self) -> By {
        By::from_number(self.by_number())
    }

    /// What the host name rests on.
    pub fn host_by(&self) -> By {
        match self.by_number() {
            _ if self.host().is_none() => By::Nothing,
            HANDSHAKE_HOST_BY_DNS => By::Dns,
            n => By::from_number(n),
        }
    }

    pub fn alpn(&self) -> Alpn {
        Alpn::from_number(self.l7_info & 0xf)
    }

    /// Class and host will hardly change any more: rules may go by them. What is still to come are facts.
    pub fn is_settled(&self) -> bool {
        self.is_decided() || self.l7_info & SETTLED != 0
    }

    /// The class as far as rules may go by it: `None` while it is open, and for good where too little was read of the flow.
    pub fn known_class(&self) -> Option<u16> {
        let open = (self.is_cut_short() || self.is_headless()) && super::inspect::is_general(self.class());
        (self.is_settled() && !open).then_some(self.class)
    }

    pub(super) fn set_settled(&mut self) {
        self.l7_info |= SETTLED;
    }

    pub(super) fn set_class(&mut self, class: Class, by: By, alpn: Alpn) {
        self.class = class.number();
        self.l7_info = self.l7_info & SETTLED | (by as u8) << BY | alpn as u8;
    }

    /// Notes that the host name is one that a DNS answer gave the server's address.
    pub(super) fn set_host_by_dns(&mut self) {
        let by = if self.class() == Class::Unknown { By::Dns as u8 } else { HANDSHAKE_HOST_BY_DNS };
        self.l7_info = self.l7_info & !(7 << BY) | by << BY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_lead_back() {
        for (i, c) in Class::ALL.iter().enumerate() {
            assert_eq!(Class::from_number(c.number()), *c);
            assert_eq!(Class::from_name(c.name()), Some(*c));
            assert!(i == 0 || Class::ALL[i - 1] < *c, "out of order: {c}");
            assert!(c.name().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
        }
        for (a, name) in Alpn::NAMES {
            assert_eq!((Alpn::of(name.as_bytes()), Alpn::from_number(a as u8), a.name()), (a, a, name));
        }
        for by in [By::Nothing, By::Payload, By::Handshake, By::Protocol, By::Port, By::Dns] {
            assert_eq!(By::from_number(by as u8), by);
        }
    }
}
