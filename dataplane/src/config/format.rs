//! The named text formats of the schema, and how the value types meet serde and JSON Schema. One table serves both the
//! printed schema and the check of a file, so the two cannot drift apart.

use std::borrow::Cow;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::host_glob::HostGlob;
use super::places::{
    Address, Endpoint, FileMode, FilePath, Group, Interface, LinkAddress, MetricsAddress, Name, WireGuardKey,
};
use super::rates::{Bandwidth, Latency};
use super::values::{Bad, HostPattern, Interval, PortRange, Prefix, Protocol, Span};

/// Text or number as TOML gave it.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Scalar;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or a whole number")
            }
            fn visit_str<E>(self, v: &str) -> Result<Scalar, E> {
                Ok(Scalar(v.to_owned()))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Scalar, E> {
                Ok(Scalar(v.to_string()))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Scalar, E> {
                Ok(Scalar(v.to_string()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

macro_rules! formats {
    ($($ty:ty, $format:literal, $types:tt, $describe:literal;)*) => {
        /// Checks `text` against a format of the schema. An unknown format accepts everything.
        pub fn check(format: &str, text: &str) -> Result<(), Bad> {
            match format {
                $($format => <$ty as FromStr>::from_str(text).map(drop),)*
                _ => Ok(()),
            }
        }
        $(
            impl<'de> Deserialize<'de> for $ty {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    Scalar::deserialize(deserializer)?.0.parse().map_err(de::Error::custom)
                }
            }
            impl Serialize for $ty {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.collect_str(self)
                }
            }
            formats!(@schema $ty, $format, $types, $describe);
        )*
    };
    (@schema $ty:ty, $format:literal, $types:tt, $describe:literal) => {
        impl JsonSchema for $ty {
            fn inline_schema() -> bool { true }
            fn schema_name() -> Cow<'static, str> { $format.into() }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": $types, "format": $format, "description": $describe })
            }
        }
    };
}

formats! {
    Prefix, "prefix", "string", "An address or a prefix without host bits: \"10.1.0.0/24\", \"2001:db8::1\".";
    PortRange, "port-range", ["string", "integer"], "A port (443) or a range of ports (\"8000-8099\").";
    Protocol, "protocol", ["string", "integer"], "tcp, udp, icmp, icmpv6, esp, any, or a protocol number 0 to 255.";
    Span, "duration", "string", "A whole number and ms, s, m, h or d: \"300s\".";
    Interval, "duration or 0s", "string", "As a duration, and \"0s\" for never.";
    HostPattern, "host-pattern", "string", "A host name, or \"*.\" and a domain for all names below it.";
    HostGlob, "host-glob", "string", "A host name, \"*.\" and a domain for all names below it, \"*\", or labels with `*` in them: \"api-*.example.com\".";
    FileMode, "file-mode", "string", "Permission bits in octal: \"0660\".";
    Group, "group", ["string", "integer"], "Name or number of a group of the host.";
    Name, "name", "string", "1 to 32 letters, digits, `-`, `_` or `.`.";
    Interface, "interface", "string", "Name of a network interface, 1 to 15 bytes.";
    LinkAddress, "interface address", "string", "An address of an interface and the length of its prefix: \"10.1.0.1/24\".";
    Address, "address", "string", "An IPv4 or IPv6 address.";
    Endpoint, "endpoint", "string", "Address and port of a host: \"192.0.2.2:51820\", \"[2001:db8::2]:51820\".";
    WireGuardKey, "wireguard-key", "string", "32 bytes in base64, as `wg pubkey` prints them.";
    MetricsAddress, "socket-address", "string", "Loopback address and port: \"127.0.0.1:9464\", \"[::1]:9464\".";
    Bandwidth, "bandwidth", "string", "A whole number and kbit/s, Mbit/s, Gbit/s or Tbit/s: \"250 Mbit/s\".";
    Latency, "latency", "string", "A whole number and us, ms or s: \"500us\".";
    FilePath, "path", "string", "A path; a relative one starts at the policy file's folder.";
}
