//! Why an intent is met, degraded or refused. Codes are stable; each says what would change it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What became of an intent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It has what it asks for.
    #[default]
    Met,
    /// It is served, with less or with more than it asks for.
    Degraded,
    /// It is not served: its flows are dropped, or no rule is made for them.
    Refused,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Degraded => "degraded",
            Self::Refused => "refused",
        }
    }
}

macro_rules! reasons {
    ($($(#[$default:meta])? $name:ident = $code:literal $verdict:ident $help:literal,)*) => {
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum Reason { $($(#[$default])? $name,)* }

        impl Reason {
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            /// Stable, for JSON and docs.
            pub const fn code(self) -> &'static str {
                match self { $(Reason::$name => $code,)* }
            }

            /// What an intent is at best that has this reason.
            pub const fn verdict(self) -> Verdict {
                match self { $(Reason::$name => Verdict::$verdict,)* }
            }

            /// What it means, and what would change it.
            pub const fn help(self) -> &'static str {
                match self { $(Reason::$name => $help,)* }
            }
        }
    };
}

reasons! {
    #[default]
    AsAsked = "as_asked" Met "Nothing stands against it.",
    NoTunnel = "no_tunnel" Refused "Encryption is required and no tunnel leads there: none is defined, or several are and neither `peers` nor a rule nor a peer's `allowed_ips` says which. Its flows are dropped. The operator defines a tunnel, or the application names one in `peers`.",
    UnknownPeer = "unknown_peer" Refused "Encryption is required and the policy has none of the tunnels that `peers` names. Its flows are dropped. The operator defines one of them, or the application names another.",
    PeerUnreachable = "peer_unreachable" Refused "Encryption is required and the peers of the tunnels it may use take none of its destinations (`allowed_ips`). Its flows are dropped. The operator widens `allowed_ips`, or the application names another tunnel.",
    Maintenance = "maintenance" Refused "Encryption is required and the tunnels it may use are under maintenance. Its flows are dropped until the operator takes them out of `[maintenance]`.",
    PersonaCipher = "persona_cipher" Refused "Encryption is required and the device planned for has none of its tunnels' ciphers. Another cipher, or another device.",
    PeerNotAllowed = "peer_not_allowed" Refused "A rule of the policy sends these flows into a tunnel that `peers` leaves out: what both allow is nothing. They are dropped. One side changes its tunnel.",
    PolicyDrops = "policy_drops" Refused "A rule of the policy drops these flows, and the stricter side wins. The operator changes the rule.",
    DroppedByIntent = "dropped_by_intent" Refused "Another application's intent claims these flows, must have them encrypted and has no tunnel. Its owner narrows it, or is given a tunnel.",
    ClaimedByIntent = "claimed_by_intent" Refused "Another application's intent claims all of these flows and does not agree with this one: that one is stricter, or comes first, and is obeyed. This one has no effect. One of the two names other flows.",
    NameUnresolved = "name_unresolved" Refused "A name has no address, so its flows cannot be told from others: no rule is made for them. With the address in DNS or /etc/hosts, a reload.",
    InClear = "in_clear" Degraded "Encryption is preferred and no tunnel can carry it: it goes in clear. The operator defines a tunnel, or the application names one in `peers`.",
    PolicyEncrypts = "policy_encrypts" Degraded "It asks to go in clear, but a rule of the policy encrypts these flows, and the stricter side wins. The operator changes the rule.",
    StricterIntent = "stricter_intent" Degraded "Another application's intent claims some of these flows and is stricter: there it is obeyed. One of the two narrows its flows.",
    EarlierIntent = "earlier_intent" Degraded "Another application's intent claims some of these flows with at least the same priority and another tunnel: there it is obeyed. One of the two narrows its flows or raises its priority.",
    PolicyTunnel = "policy_tunnel" Degraded "A rule of the policy sends some of these flows into another tunnel than the first of `peers`, one that `peers` allows as well.",
    PolicyPasses = "policy_passes" Degraded "A steering rule of the policy leaves these flows to the kernel. The operator changes it.",
    PolicyPart = "policy_part" Degraded "A rule of the policy drops some of these flows, and the stricter side wins. The operator changes the rule, or the application narrows its flows.",
    NoCompression = "no_compression" Degraded "A rule of the policy compresses these flows and the intent, or what it says of its data, forbids it: they are not compressed.",
    MixedData = "mixed_data" Degraded "Compression is asked for flows that carry secrets beside text an outsider chooses, whose length would tell of the secrets (CRIME, VORACLE): they are not compressed. Two intents, one for each kind of data, could.",
    NoMeter = "no_meter" Degraded "A steering rule of the policy leaves flows of it to the kernel, where no worker meters them: its ceiling, or limit of connections, holds for the rest only. The operator changes the steering rule.",
    AppLimit = "app_limit" Degraded "The policy's `[[limit]]` for this application is lower than what it asks for; the limit is booked. The operator raises it.",
    OverbookedBandwidth = "overbooked_bandwidth" Degraded "Intents of higher priority have booked the bandwidth: the floor is not promised. The operator raises `bandwidth` of `[capacity]`, or the application lowers its floor or raises its priority.",
    OverbookedCrypto = "overbooked_crypto" Degraded "Intents of higher priority have booked what can be encrypted. Required encryption stays, without the promised floor; preferred goes in clear. The operator raises `crypto` of `[capacity]`.",
    OverbookedConnections = "overbooked_connections" Degraded "Intents of higher priority have booked the connections: they are not promised. The operator raises `connections` of `[capacity]`, or `capacity` of `[flows]`.",
    IdleLatency = "idle_latency" Degraded "A latency below a millisecond is wished for, and workers sleep at once when there is nothing to do (`idle = \"interrupt\"`). The operator writes \"adaptive\" or \"busy\".",
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fmt::Write;

    #[test]
    fn codes_are_unique_and_are_what_json_has() {
        for (at, reason) in Reason::ALL.iter().enumerate() {
            assert!(Reason::ALL[..at].iter().all(|other| other.code() != reason.code()), "{}", reason.code());
            assert_eq!(serde_json::to_string(reason).unwrap(), format!("\"{}\"", reason.code()));
        }
        assert_eq!(Reason::default(), Reason::AsAsked);
    }

    const HEAD: &str = "\
# What becomes of an intent, and why

This page is generated from the list in `dataplane/src/plan/reason.rs`.

`softdpu plan` says of each intent whether it is met, degraded or refused, with one of these codes, the line that decides it and
whose line that is. Codes are stable.

| code | verdict | meaning, and what would change it |
| --- | --- | --- |
";

    /// `SOFTDPU_WRITE_DOCS=1 cargo test -p softdpu plan::reason` writes it anew.
    #[test]
    fn the_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/plan-reasons.md");
        let mut page = HEAD.to_owned();
        for reason in Reason::ALL {
            let help = reason.help().replace('|', "\\|");
            writeln!(page, "| `{}` | {} | {help} |", reason.code(), reason.verdict().as_str()).unwrap();
        }
        if std::env::var_os("SOFTDPU_WRITE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        assert!(std::fs::read_to_string(path).unwrap() == page, "out of date: see above this test how to write it");
    }
}
