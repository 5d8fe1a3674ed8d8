//! Every reason for which a packet is not delivered. Stable codes: they are metric labels, API values and documentation.

pub use super::reason_docs::markdown;

macro_rules! reasons {
    ($($node:literal { $($variant:ident $code:literal $help:literal,)* })*) => {
        /// Why a packet was not delivered as it came. Documented in `docs/drops.md`, which is generated from this list.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($($variant,)*)* }

        impl DropReason {
            pub const ALL: &'static [Self] = &[$($(Self::$variant,)*)*];
            /// Codes in the order of [`Self::ALL`]: the counters' index.
            pub const CODES: &'static [&'static str] = &[$($($code,)*)*];

            /// The stable code.
            pub const fn code(self) -> &'static str {
                Self::CODES[self as usize]
            }

            /// The node that drops for this reason.
            pub fn node(self) -> &'static str {
                match self { $($(Self::$variant => $node,)*)* }
            }

            /// What it means and what to do, for the operator.
            pub fn help(self) -> &'static str {
                match self { $($(Self::$variant => $help,)*)* }
            }
        }
    };
}

reasons! {
    "io" {
        RxRingFull "rx_ring_full" "The worker did not keep up with its receive ring: more workers, a larger `ring`, or fewer flows steered.",
        RxNoFrame "rx_no_frame" "No free frame to receive into, or a packet larger than frames without multi-buffer hold: raise `frames`.",
        RxParts "rx_parts" "A packet of more parts than one may have.",
        RxBad "rx_bad" "A receive descriptor, or a tap's offload header, that made no sense. Stays zero unless something is broken.",
        TxBad "tx_bad" "A packet that cannot be sent: too short, too many parts, or several parts where the kernel takes one.",
        TxRefused "tx_refused" "The kernel did not take it: the port's tap is down, or was deleted.",
    }
    "parse" {
        Truncated "truncated" "The frame ends inside a header. A sender or a link cuts packets; look at the port's peer.",
        BadIpHeader "bad_ip_header" "IP version, header length or total length contradict the frame.",
        BadChecksum "bad_checksum" "The IPv4 header checksum is wrong (RFC 1812 §5.2.2): the packet was damaged on its way.",
        TooManyExtensions "too_many_extensions" "More IPv6 extension headers than the walk follows.",
        BadTransport "bad_transport" "TCP or UDP header length contradicts the packet.",
        TooManyTags "too_many_tags" "More VLAN tags than two.",
        NotIp "not_ip" "Neither IPv4 nor IPv6, yet steered to a worker: such frames are the kernel's.",
        WrongMac "wrong_mac" "The frame is for another station: the link floods, or a neighbour's table is out of date.",
        Tagged "tagged" "In a VLAN, on a port whose routes and neighbours are the untagged link's: forwarding it would join the two. Make the VLAN's own interface a port, or leave the VLAN to the kernel.",
        Multicast "multicast" "Multicast and broadcast are the kernel's; a steering rule is too wide.",
    }
    "reassemble" {
        ReassemblyTimeout "reassembly_timeout" "A fragment whose datagram did not become complete within 30 s: the rest was lost on the way, or went to another worker because the NIC chooses queues by ports too (see the operator's guide on fragments).",
        ReassemblyFull "reassembly_full" "A fragment of an incomplete datagram that had to make room for another, or of a source that has its share of the room already.",
        BadFragment "bad_fragment" "A fragment that overlaps another (RFC 5722), contradicts the datagram's end, is empty or of odd length, or would make it longer than 65,535 bytes; and whatever else comes of that datagram.",
        DuplicateFragment "duplicate_fragment" "A fragment that was there already; the first is used.",
    }
    "open" {
        NoSa "no_sa" "For this host with an SPI or a receiver index that no tunnel has: the peer's `spi` and our `in.spi` differ, or the session is gone.",
        WrongPeer "wrong_peer" "ESP under a known SPI from another address than the tunnel's `remote`.",
        SaExpired "sa_expired" "Its association or session is past its life; a new one was not made in time.",
        Replay "replay" "Sequence number seen before, or older than the replay window (RFC 4303 §3.4.3).",
        BadIcv "bad_icv" "Authentication failed: the keys of the two sides differ, or the packet was tampered with.",
        EspShort "esp_short" "Shorter than ESP's header, IV, trailer and ICV.",
        BadPadding "bad_padding" "Authentic, but its padding is not 1, 2, 3 … (RFC 4303 §2.4).",
        Dummy "dummy" "ESP traffic-flow-confidentiality packet (next header 59), discarded as RFC 4303 §2.6 asks.",
        BadInner "bad_inner" "Authentic, but what is inside is not an IP packet.",
        BadIv "bad_iv" "Its IV does not carry its sequence number: the peer is not a softdpu, or another version.",
        Keepalive "keepalive" "NAT keepalive (RFC 3948 §2.3), or WireGuard's, discarded as it should be.",
        EcnNotCapable "ecn_not_capable" "Congestion was marked on a packet whose sender cannot hear of it (RFC 6040 §4.2).",
        NotAllowed "not_allowed" "Authentic, but its source address is not among the peer's allowed IPs.",
        Handshake "handshake" "A WireGuard handshake message or cookie, handed to the control side, as it should be.",
        HandshakeFlood "handshake_flood" "A WireGuard handshake message beyond what strangers may send in a second, or one that found the control side's queue full.",
        NotWireGuard "not_wireguard" "Neither a WireGuard message nor for another host, on a WireGuard tunnel's port.",
        OuterFragment "outer_fragment" "A fragment of an ESP packet; the path between the tunnel's ends has a lower MTU than the tunnel.",
    }
    "select" {
        NoSelector "no_selector" "For a tunnel none of whose peers or associations is for this packet: its addresses are in no allowed IPs and no traffic selector. Nothing is sent in clear.",
        NoSession "no_session" "Waited for a session with its tunnel's peer, which did not come up in time, or too many packets wait already. The peer may be away, or its keys differ from what is set here.",
    }
    "decompress" {
        UnknownCpi "unknown_cpi" "IPComp with a CPI that was not agreed on (RFC 3173 §3.3).",
        BadCompression "bad_compression" "The compressed bytes are not valid LZ4.",
        Expansion "expansion" "Would expand beyond what a frame holds: damaged, or an expansion bomb.",
    }
    "policy" {
        PolicyDrop "policy_drop" "A rule with `action = \"drop\"`.",
        Metered "metered" "Faster than the `meter_rate` of the flow's rule, or the ceiling of its application, allows. In the driver: `flow_meter`.",
        ConnectionLimit "connection_limit" "Of a flow beyond the `connections` that a `[[limit]]` lets its application have at once. It is let in once others have ended.",
        ClearOnProtected "clear_on_protected" "In clear, though a rule says this flow is encrypted (RFC 4301 §5.2).",
        Martian "martian" "From or to an address that no router forwards: unspecified, loopback, multicast, broadcast or IPv6 link-local (RFC 1812 §5.3.7, RFC 4291 §2.5.6).",
        SelectorMismatch "selector_mismatch" "Out of an association that the kernel's IPsec policies do not let this packet come by (RFC 4301 §5.2).",
        KernelOnly "kernel_only" "The kernel's IPsec policies want what only the kernel does (a cipher, several transforms); a steering rule takes it to the worker.",
        BackToPeer "back_to_peer" "Out of a tunnel, for an address that lies behind the same peer: its allowed IPs, or the `to` of the tunnel's rule, have it by a prefix at least as long as the route's. In clear it must not go; see the operator's guide on hubs.",
        WrongTunnel "wrong_tunnel" "From a tunnel that no rule allows this flow to come by (RFC 4301 §5.2).",
    }
    "icmp" {
        TtlExpired "ttl_expired" "TTL or hop limit ran out; the sender may not be told (error, fragment, multicast) or was told too often.",
        TooBig "too_big" "Larger than the way's MTU; the sender may not be told, or was told too often.",
    }
    "fragment" {
        FragmentRoom "fragment_room" "To be fragmented, but there are no free frames or it would take too many pieces.",
    }
    "seal" {
        SequenceExhausted "sequence_exhausted" "The SA's sequence numbers are used up; it needs a new key. Nothing is sent in clear.",
        TransportFragment "transport_fragment" "A fragment, for a tunnel in transport mode, which does not seal them (RFC 4303 §3.1.1).",
        TooLong "too_long" "The sealed packet would exceed what IP can say (65,535 bytes).",
        NoRoom "no_room" "The packet and its tunnel headers do not fit the frame.",
    }
    "rewrite" {
        SamePort "same_port" "Protected on one side of this host and in clear on the other, yet both sides are the same port: the route to the clear side is gone (its link is down?), or a stranger on the uplink sends as if from within. Not checked where there is only one port.",
        NotSealed "not_sealed" "For a tunnel, yet not sealed when it reached the link header: a bug, held back and reported as escaped bytes.",
    }
    "route" {
        NoRoute "no_route" "The kernel's routing table has no route to the destination.",
        Refused "refused" "A blackhole, unreachable or prohibit route.",
        ForThisHost "for_this_host" "For the host itself, and there is no port of kind tap to hand it to the kernel by; or a steering rule is too wide.",
        NoPort "no_port" "The route leaves by an interface that is not a port, and there is no port of kind tap to hand it to the kernel by; or it is a tunnel's peer that is behind such an interface.",
        HostLoop "host_loop" "For the host's own kernel, by the tap that the kernel sent it by: the kernel routes it to softdpu, and no rule takes it into a tunnel.",
        LinkDown "link_down" "The outgoing port's link is down.",
        NeighbourUnresolved "neighbour_unresolved" "The next hop does not answer ARP or neighbour discovery.",
        NeighbourQueueFull "neighbour_queue_full" "Too many packets already wait for this next hop's link address.",
    }
    "emit" {
        TxFull "tx_full" "The port's transmit ring stayed full.",
    }
    "worker" {
        Shutdown "shutdown" "Still with the worker when it stopped, most likely waiting for a next hop.",
    }
}

impl DropReason {
    pub const COUNT: usize = Self::ALL.len();
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_in_order() {
        for (at, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, at);
            assert_eq!(DropReason::CODES.iter().filter(|code| **code == reason.code()).count(), 1);
            assert!(reason.help().ends_with('.') || reason.help().ends_with('`'), "{reason}: help is a sentence");
        }
    }
}
