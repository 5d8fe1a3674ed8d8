//! The kinds of events. Codes are stable: scripts filter by them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::config::nearest;

/// How much somebody should care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Info,
    Warn,
    Error,
}

/// Which ring an event is kept in, and whether it is told unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Now and then; kept long.
    Seldom,
    /// Possibly every second; kept apart, so that it does not push the others out.
    Often,
    /// Possibly hundreds a second: made only while somebody asks for them by name, and no more than
    /// [`MOST_PER_SECOND`](super::MOST_PER_SECOND).
    OnWish,
}

macro_rules! kinds {
    ($($name:ident = $code:literal $level:ident $pace:ident $help:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Kind { $(#[serde(rename = $code)] $name,)* }

        impl Kind {
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];

            /// Stable, for JSON and docs.
            pub const fn code(self) -> &'static str {
                match self { $(Kind::$name => $code,)* }
            }

            pub const fn level(self) -> Level {
                match self { $(Kind::$name => Level::$level,)* }
            }

            pub const fn pace(self) -> Pace {
                match self { $(Kind::$name => Pace::$pace,)* }
            }

            /// When there is one, and what it is about.
            pub const fn help(self) -> &'static str {
                match self { $(Kind::$name => $help,)* }
            }
        }
    };
}

kinds! {
    Hello = "hello" Info Seldom "First on every connection, and only there: which instance answers. Facts: `instance`, `version`, `pid`, `oldest` (number of the oldest event that is kept), `missed` (events that had left the ring since the one asked for, at most; not there when nothing was).",
    CutOff = "cut_off" Warn Seldom "Last on a connection whose reader was too slow: what it had not read yet has left the ring. Facts: `missed`.",
    InstanceStarted = "instance_started" Info Seldom "The instance serves. Facts: `version`, `pid`, `policy`, `plan`.",
    InstanceStopping = "instance_stopping" Info Seldom "The instance was told to end.",
    PlanApplied = "plan_applied" Info Seldom "Another policy is in force. About: who asked. Facts: `plan`, `changes`, `compile_ms`, `switch_ms`.",
    PlanRefused = "plan_refused" Error Seldom "A policy was not taken up; the one in force stays. About: who asked.",
    PlanRolledBack = "plan_rolled_back" Error Seldom "The health check did not say yes; the policy before is in force again. About: who asked. Facts: `plan`, `why`.",
    IntentChanged = "intent_changed" Warn Seldom "With another policy the contract about an intent is another one. About: the intent. Facts: `change` (\"new\", \"gone\", \"changed\"), `what`, and after it `verdict` and `reason`.",
    NameUnanswered = "name_unanswered" Warn Often "The resolver has no answer for a name of an intent; what was known of it stays. Told once, until there is an answer again. About: the name. Facts: `failures` (of all names, since the start).",
    PeerUp = "peer_up" Info Seldom "A WireGuard peer has keys now, and had none or expired ones. About: TUNNEL/PEER. Facts: `endpoint`.",
    PeerRekeyed = "peer_rekeyed" Info Often "A WireGuard peer has new keys. About: TUNNEL/PEER.",
    PeerDown = "peer_down" Warn Seldom "The keys of a WireGuard peer have expired, or the peer is gone. About: TUNNEL/PEER. Facts: `handshake_s`.",
    PeerMoved = "peer_moved" Info Often "A WireGuard peer sends from another address. About: TUNNEL/PEER. Facts: `from`, `to`.",
    TunnelMoved = "tunnel_moved" Info Seldom "The peer of an ESP tunnel sends from another address. About: the tunnel. Facts: `from`, `to`.",
    TunnelChanged = "tunnel_changed" Info Often "What `softdpu status` notes of a tunnel is another thing now, for one of type xfrm its associations. About: the tunnel.",
    TunnelExpiring = "tunnel_expiring" Warn Seldom "Nine tenths of the lifetime of a tunnel's keys are over. About: the tunnel. Facts: `direction`.",
    TunnelExpired = "tunnel_expired" Error Seldom "The lifetime of a tunnel's keys is over: its packets are dropped. About: the tunnel. Facts: `direction`.",
    PortUp = "port_up" Info Seldom "A port's link is up. About: the port.",
    PortDown = "port_down" Error Seldom "A port's link is down. About: the port.",
    PortChanged = "port_changed" Warn Seldom "A port's MTU, address, or what its device offers has changed. About: the port.",
    PortGone = "port_gone" Error Seldom "A port's interface was removed: it carries nothing until softdpu is restarted. About: the port.",
    NeighbourChanged = "neighbour_changed" Info Often "A neighbour's link address was learnt, has changed, or is gone. About: PORT/ADDRESS. Facts: `from`, `to`.",
    WorkerFailed = "worker_failed" Error Seldom "A worker has ended: its queues are not served. About: its number.",
    WorkerStuck = "worker_stuck" Error Seldom "A worker has not answered for 2 s. About: its number.",
    WorkerRecovered = "worker_recovered" Info Seldom "A worker that was stuck answers again. About: its number.",
    WorkerFull = "worker_full" Warn Often "A worker's flow table has no room: packets are judged by themselves, or older flows make way. At most once a minute. About: its number. Facts: `refused`, `evicted`.",
    BytesEscaped = "bytes_escaped" Error Seldom "Bytes were held back at the last step: they were in clear although a rule encrypts their flow. Please report it. Facts: `bytes`.",
    DropsRising = "drops_rising" Warn Often "Packets were dropped in the last second. Facts: per reason how many.",
    WatchBegan = "watch_began" Warn Seldom "Somebody traces or captures packets, and sees what they carry, also within tunnels. About: `trace` or `capture`. Facts: `uid`, `filter`, `count`, `seconds`.",
    WatchEnded = "watch_ended" Info Seldom "That is over. About: `trace` or `capture`. Facts: `uid`, `seen`, `matched`, `lost`.",
    LeftOut = "left_out" Info Often "More happened in a second than is told. About: the kind. Facts: `count`.",
    FlowOffloaded = "flow_offloaded" Info OnWish "A flow went down into the driver or the device. About: the flow.",
    FlowDemoted = "flow_demoted" Info OnWish "A flow came back to its worker. About: the flow. Facts: `reason`, a code of docs/offload-reasons.md.",
    FlowRefused = "flow_refused" Info OnWish "A flow was proposed to the driver or the device and not taken. About: the flow. Facts: `reason`.",
}

impl Kind {
    fn bit(self) -> u64 {
        1 << self as u32
    }

    /// What comes before the first underscore, which names all kinds that share it.
    pub fn family(self) -> &'static str {
        self.code().split('_').next().unwrap_or_default()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl JsonSchema for Kind {
    fn schema_name() -> Cow<'static, str> {
        "EventKind".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let codes: Vec<&str> = Self::ALL.iter().map(|kind| kind.code()).collect();
        json_schema!({ "type": "string", "enum": codes, "description": "Stable code. More may be added." })
    }
}

/// Which kinds a reader wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted(u64);

impl Default for Wanted {
    /// All but those that are told on wish only.
    fn default() -> Self {
        Self(Kind::ALL.iter().filter(|kind| kind.pace() != Pace::OnWish).fold(0, |bits, kind| bits | kind.bit()))
    }
}

impl Wanted {
    pub fn has(self, kind: Kind) -> bool {
        self.0 & kind.bit() != 0
    }

    /// Whether a kind of this pace is wanted.
    pub fn any_of(self, pace: Pace) -> bool {
        Kind::ALL.iter().any(|kind| kind.pace() == pace && self.has(*kind))
    }
}

/// Kinds and families, with commas between them: `plan,peer_up,flow`. `all`: every kind. About the connection itself every
/// reader is told.
impl FromStr for Wanted {
    type Err = (String, String);

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bits = 0;
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let named = Kind::ALL.iter().filter(|kind| word == "all" || word == kind.code() || word == kind.family());
            let of_word = named.fold(0, |bits, kind| bits | kind.bit());
            if of_word == 0 {
                let known = Kind::ALL.iter().flat_map(|kind| [kind.code(), kind.family()]);
                let short: String = word.chars().take(64).collect();
                let help = match nearest(&short, known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the kinds are {}", codes().join(", ")),
                };
                return Err((format!("no kind of event is called `{short}`"), help));
            }
            bits |= of_word;
        }
        Ok(if bits == 0 { Self::default() } else { Self(bits) })
    }
}

fn codes() -> Vec<&'static str> {
    Kind::ALL.iter().map(|kind| kind.code()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn kinds_are_asked_for_by_code_and_by_family() {
        assert!(Kind::ALL.len() <= 64, "a bit each");
        let wanted: Wanted = "plan, peer_up".parse().unwrap();
        assert!(wanted.has(Kind::PlanRefused) && wanted.has(Kind::PeerUp) && !wanted.has(Kind::PeerDown));
        let usual = Wanted::default();
        assert!(usual.has(Kind::DropsRising) && !usual.has(Kind::FlowOffloaded));
        assert_eq!("".parse::<Wanted>().unwrap(), usual);
        assert!("flow".parse::<Wanted>().unwrap().any_of(Pace::OnWish) && !usual.any_of(Pace::OnWish));
        assert!(Kind::ALL.iter().all(|kind| "all".parse::<Wanted>().unwrap().has(*kind)));
        let (error, help) = "peer_upp".parse::<Wanted>().unwrap_err();
        assert!(error.contains("peer_upp") && help.contains("did you mean `peer_up`"), "{error}: {help}");
        assert!("x,".repeat(3).parse::<Wanted>().unwrap_err().1.contains("plan_applied"));
    }

    #[test]
    fn codes_are_those_of_the_json() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.code());
            assert!(kind.help().ends_with('.'), "{kind}");
        }
    }
}
