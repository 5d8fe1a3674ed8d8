//! Why a flow is not on a higher tier. Codes are stable; each says what would change it.

macro_rules! reasons {
    ($($(#[$again:ident])? $name:ident = $number:literal $code:literal $help:literal,)*) => {
        /// Numbers are kept in flows ([`crate::flow::Flow::offload_reason`], below 64); 0 there means that nothing was tried yet.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason { $($name = $number,)* }

        impl Reason {
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            /// Stable, for JSON and docs.
            pub const fn code(self) -> &'static str {
                match self { $(Reason::$name => $code,)* }
            }

            /// What it means, and what would change it.
            pub const fn help(self) -> &'static str {
                match self { $(Reason::$name => $help,)* }
            }

            /// It may be over with the next packets: asked again soon, not once in a while.
            pub const fn passes(self) -> bool {
                match self { $(Reason::$name => false $(|| stringify!($again).len() > 0)?,)* }
            }
        }
    };
}

reasons! {
    #[again] Asked = 1 "asked" "The flow was proposed; its entries are not confirmed yet. A moment.",
    #[again] FewPackets = 2 "few_packets" "Fewer packets than `min_packets` of `[offload]`: short flows are not worth an entry.",
    #[again] NotProven = 3 "not_proven" "TCP's handshake is not complete, or only one side has spoken.",
    #[again] Undecided = 4 "undecided" "What the flow carries is not recognised yet, and nobody knows it from its first packets alone. `wait_for_class = false` in `[offload]` does not wait, where no rule asks for classes or hosts.",
    #[again] RuleUndecided = 5 "rule_undecided" "Which rule holds for both directions is not settled.",
    #[again] NoNextHop = 6 "no_next_hop" "One direction has no route over a port, or its neighbour's address is not known.",
    #[again] Busy = 7 "busy" "More flows were proposed at once than the thread had room for. They are proposed again.",
    #[again] Changing = 8 "changing" "Rules, keys or routes changed while the flow was proposed. It is proposed again.",
    #[again] Idle = 9 "idle" "It was silent for 5 s and left its entries to others. It goes back with its next packets.",
    #[again] RouteChanged = 10 "route_changed" "It was offloaded until its route or neighbour changed. It goes back with its next packets.",
    #[again] KeysChanged = 11 "keys_changed" "It was offloaded until tunnels changed whom they protect. It goes back with its next packets if it is still in clear.",
    Protected = 12 "protected" "A tunnel carries it: only a worker seals and opens.",
    PolicyNever = 13 "policy_never" "Its rule says `offload = \"never\"`.",
    Protocol = 14 "protocol" "Neither TCP nor UDP.",
    Inner = 15 "inner" "It is inside an overlay or a VLAN; the driver acts on plain packets only.",
    Carrier = 16 "carrier" "It carries flows of an overlay, which the worker follows.",
    NotXdp = 17 "not_xdp" "It comes in or leaves by a port that is not of kind `xdp`.",
    Checksums = 18 "checksums" "Senders on its port may leave checksums to their device (`checksum = \"auto\"` or \"finish\"), and only a worker completes them. On veth: `ethtool -K DEVICE tx off` at the senders, and `checksum = \"trust\"` for the port.",
    Closing = 19 "closing" "FIN or RST was seen.",
    TableFull = 20 "table_full" "The driver's table is full, or the places around this flow's are. `capacity` of `[offload]`.",
    ByHand = 21 "by_hand" "`softdpu demote` took it back. It stays with the worker.",
    Off = 22 "off" "`enabled = false` in `[offload]`.",
    Stopping = 23 "stopping" "softdpu is ending.",
    SamePort = 24 "same_port" "It leaves by the port it came in by.",
    LinkDown = 25 "link_down" "The port it leaves by is down.",
    Driver = 26 "driver" "The driver's table could not be written; the log says why.",
    NoDeviceOffload = 27 "no_device_offload" "Tier `nic`: the driver of the port it comes by has no XDP in the device. The drivers of SmartNICs that run XDP programs have.",
    NoTransmit = 28 "no_transmit" "The port it leaves by does not take frames that other ports redirect to it, as its driver says. A veth does once its peer polls: `ethtool -K PEER gro on`.",
    ByClass = 29 "by_class" "The policy has a rule that encrypts or drops by class or host. What a connection carries is known from its bytes, which a worker has to see: also those of the next connection of the same ports.",
    NicOff = 30 "nic_off" "Tier `nic`: `nic = \"off\"` or `enabled = false` in `[offload]`.",
    NicRefused = 31 "nic_refused" "Tier `nic`: the device was asked and refused the table or the program. `softdpu status` has the kernel's error and the verifier's words.",
    NicOnlyDrops = 32 "nic_only_drops" "Tier `nic`: of what flows need, a device only drops; this one is to be forwarded.",
    NicFull = 33 "nic_full" "Tier `nic`: the device has no room for more flows. `softdpu status` says how many it took.",
    Ceiling = 34 "ceiling" "Its application has a ceiling, which all of its flows share: only workers count them together.",
    Mirror = 35 "mirror" "Its rule copies every packet to a port, and only a worker copies. With `sample`, of one packet in so many, flows are offloaded: the driver hands up what is sampled.",
}

impl Reason {
    /// Of the number that a flow keeps.
    pub fn of(number: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| *reason as u8 == number)
    }

    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.code() == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_codes_are_unique() {
        for (at, reason) in Reason::ALL.iter().enumerate() {
            assert!(*reason as usize == at + 1 && (*reason as u8) < 64);
            assert_eq!((Reason::of(*reason as u8), Reason::from_code(reason.code())), (Some(*reason), Some(*reason)));
        }
        assert_eq!(Reason::of(0), None);
        assert!(Reason::Idle.passes() && !Reason::Protected.passes() && !Reason::ByHand.passes());
    }
}
