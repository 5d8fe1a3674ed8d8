//! What a recogniser learns of a flow beside its class and host: names and short values, bounded.

macro_rules! facts {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)+) => {
        /// What a value is. Numbers and names are stable: they are in the API and in exports.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Fact {
            $($(#[$doc])* $variant = $number,)+
        }

        impl Fact {
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            fn from_number(n: u8) -> Option<Self> {
                match n {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

facts! {
    /// `1.0` … `1.3`; QUIC's and DTLS's likewise.
    Version = 1, "version";
    /// The cipher suite the server chose, by its IANA name or `0x1301`.
    Cipher = 2, "cipher";
    /// JA4 of the client (FoxIO, 2023).
    Ja4 = 3, "ja4";
    /// The client offered an encrypted ClientHello.
    Ech = 4, "ech";
    /// A name the server's certificate is for, where it is visible.
    CertName = 5, "cert_name";
    Method = 6, "method";
    Path = 7, "path";
    UserAgent = 8, "user_agent";
    ContentType = 9, "content_type";
    /// DNS query type, by its mnemonic.
    DnsType = 10, "dns_type";
    /// First address that a DNS answer has.
    DnsAnswer = 11, "dns_answer";
    DnsRcode = 12, "dns_rcode";
    /// Name and version that a server says of itself.
    Server = 13, "server";
    /// An encrypted protocol was begun inside this one (STARTTLS, WebSocket upgrade and the like).
    Upgrade = 14, "upgrade";
    /// gRPC service and method.
    Rpc = 15, "rpc";
    /// Database, share, topic, channel or whatever else the client wants.
    Object = 16, "object";
}

/// Bytes of all facts of a flow together.
const ROOM: usize = 380;
/// Longest value; longer ones are cut.
pub const MAX_VALUE: usize = 200;

/// The facts of one flow: number, length and value one after the other. What no longer fits is left out.
#[derive(Clone)]
pub struct Facts {
    len: u16,
    bytes: [u8; ROOM],
}

impl Default for Facts {
    fn default() -> Self {
        Self { len: 0, bytes: [0; ROOM] }
    }
}

impl std::fmt::Debug for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Facts {
    pub fn clear(&mut self) {
        self.len = 0;
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a value. Bytes that are not printable ASCII become `?`; a fact that is there already stays.
    pub fn put(&mut self, fact: Fact, value: &[u8]) {
        let value = &value[..value.len().min(MAX_VALUE)];
        let at = usize::from(self.len);
        if value.is_empty() || self.get(fact).is_some() || at + 2 + value.len() > ROOM {
            return;
        }
        self.bytes[at] = fact as u8;
        self.bytes[at + 1] = value.len() as u8;
        for (to, from) in self.bytes[at + 2..].iter_mut().zip(value) {
            *to = if from.is_ascii_graphic() || *from == b' ' { *from } else { b'?' };
        }
        self.len += 2 + value.len() as u16;
    }

    /// Adds what `other` has and this has not. A version is replaced: of a client's offer and a server's choice the later
    /// counts.
    pub fn merge(&mut self, other: &Self) {
        for (fact, value) in other.iter() {
            if fact == Fact::Version {
                self.remove(fact);
            }
            self.put(fact, value.as_bytes());
        }
    }

    fn remove(&mut self, fact: Fact) {
        let (mut at, end) = (0, usize::from(self.len));
        while at + 2 <= end {
            let next = at + 2 + usize::from(self.bytes[at + 1]);
            if self.bytes[at] == fact as u8 {
                self.bytes.copy_within(next..end, at);
                self.len -= (next - at) as u16;
                return;
            }
            at = next;
        }
    }

    pub fn get(&self, fact: Fact) -> Option<&str> {
        self.iter().find(|(f, _)| *f == fact).map(|(_, value)| value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Fact, &str)> {
        let mut rest = &self.bytes[..usize::from(self.len)];
        std::iter::from_fn(move || {
            let (fact, len) = (*rest.first()?, usize::from(*rest.get(1)?));
            let value = rest.get(2..2 + len)?;
            rest = &rest[2 + len..];
            Some((Fact::from_number(fact)?, std::str::from_utf8(value).unwrap_or("")))
        })
    }
}

/// Facts of the flows that have some: direct-mapped by the flow's place, so that a newer flow takes an older one's room.
pub struct FactStore {
    slots: Box<[Slot]>,
}

#[derive(Clone)]
struct Slot {
    flow: u32,
    born: u32,
    facts: Facts,
}

impl FactStore {
    /// `places`: flows remembered, about 400 bytes each.
    pub fn new(places: usize) -> Self {
        let none = Slot { flow: u32::MAX, born: 0, facts: Facts::default() };
        Self { slots: vec![none; places.clamp(16, 1 << 22).next_power_of_two()].into_boxed_slice() }
    }

    /// Adds to what is known of the flow at place `flow`, of which `born` tells it from earlier ones there.
    pub fn add(&mut self, flow: u32, born: u32, facts: &Facts) {
        if facts.is_empty() {
            return;
        }
        let mask = self.slots.len() - 1;
        let slot = &mut self.slots[flow as usize & mask];
        if (slot.flow, slot.born) != (flow, born) {
            (slot.flow, slot.born) = (flow, born);
            slot.facts.clear();
        }
        slot.facts.merge(facts);
    }

    pub fn get(&self, flow: u32, born: u32) -> Option<&Facts> {
        let slot = &self.slots[flow as usize & (self.slots.len() - 1)];
        ((slot.flow, slot.born) == (flow, born)).then_some(&slot.facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_printable_and_the_first_stays() {
        let mut f = Facts::default();
        f.put(Fact::Method, b"GET");
        f.put(Fact::Path, b"/a\nb\xff");
        f.put(Fact::Method, b"POST");
        f.put(Fact::Server, b"");
        assert_eq!(f.iter().collect::<Vec<_>>(), [(Fact::Method, "GET"), (Fact::Path, "/a?b?")]);
        assert_eq!((f.get(Fact::Path), f.get(Fact::Server)), (Some("/a?b?"), None));
    }

    #[test]
    fn a_later_flow_at_the_same_place_does_not_inherit() {
        let mut store = FactStore::new(16);
        let mut f = Facts::default();
        f.put(Fact::Method, b"GET");
        store.add(3, 1, &f);
        assert!(store.get(3, 1).is_some() && store.get(3, 2).is_none() && store.get(19, 1).is_none());
        store.add(3, 2, &f);
        assert!(store.get(3, 1).is_none());
    }

    proptest! {
        #[test]
        fn any_values_fit_or_are_left_out(values in proptest::collection::vec((0usize..16, proptest::collection::vec(any::<u8>(), 0..300)), 0..30)) {
            let mut f = Facts::default();
            for (i, v) in &values {
                f.put(Fact::ALL[*i], v);
            }
            for (_, value) in f.iter() {
                prop_assert!(value.len() <= MAX_VALUE && value.bytes().all(|b| b.is_ascii_graphic() || b == b' '));
            }
        }
    }
}
