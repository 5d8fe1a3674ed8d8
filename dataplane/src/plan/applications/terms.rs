//! What an application asks for besides hosts and prefixes.

use super::Probe;
use crate::config::policy::{Application, PortRange};
use crate::l7::{Alpn, Class};

/// Words of a set of class numbers.
const WORDS: usize = 4;

/// Every kind left out holds for everything.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    pub protocol: Option<u8>,
    /// A bit per class number.
    classes: Option<[u64; WORDS]>,
    /// A bit per [`Alpn`].
    alpn: u16,
    /// Ascending, apart from each other.
    pub ports: Box<[PortRange]>,
    pub has_prefix: bool,
    has_ja4: bool,
    /// How many kinds of terms there are.
    pub kinds: u8,
}

impl Terms {
    pub fn of(app: &Application) -> Self {
        let classes = app.classes.iter().filter_map(|name| Class::from_name(name)).map(Class::number);
        let classes = classes.fold([0; WORDS], |mut set, class| {
            if let Some(word) = set.get_mut(usize::from(class / 64)) {
                *word |= 1 << (class % 64);
            }
            set
        });
        let kinds = [
            app.asks_host(),
            !app.prefixes.is_empty(),
            !app.ports.is_empty(),
            app.protocol.0.is_some(),
            !app.classes.is_empty(),
            !app.alpn.is_empty(),
            !app.ja4.is_empty(),
        ];
        Self {
            protocol: app.protocol.0,
            classes: (!app.classes.is_empty()).then_some(classes),
            alpn: app.alpn.iter().map(|name| 1 << Alpn::of(name.as_bytes()) as u16).fold(0, |a, b| a | b),
            ports: joined(&app.ports),
            has_prefix: !app.prefixes.is_empty(),
            has_ja4: !app.ja4.is_empty(),
            kinds: kinds.iter().map(|there| u8::from(*there)).sum(),
        }
    }

    /// All but host, prefix and port. `at`: the application's own place.
    #[inline]
    pub(super) fn hold(&self, at: u16, probe: &Probe<'_>) -> bool {
        let facts = probe.facts;
        let among = |set: &[u64; WORDS]| {
            set.get(usize::from(facts.class / 64)).is_some_and(|word| word >> (facts.class % 64) & 1 != 0)
        };
        self.protocol.is_none_or(|protocol| protocol == facts.protocol)
            && self.classes.as_ref().is_none_or(among)
            && (self.alpn == 0 || self.alpn >> facts.alpn as u16 & 1 != 0)
            && (!self.has_ja4 || probe.ja4.binary_search(&at).is_ok())
    }

    /// Whether an end with this port is one of the application's.
    #[inline]
    pub fn port_holds(&self, port: u16, has_ports: bool) -> bool {
        if self.ports.is_empty() {
            return true;
        }
        let at = self.ports.partition_point(|range| range.last < port);
        has_ports && self.ports.get(at).is_some_and(|range| range.first <= port)
    }
}

/// Ascending, and none touches another.
fn joined(ports: &[PortRange]) -> Box<[PortRange]> {
    let mut sorted = ports.to_vec();
    sorted.sort_by_key(|range| range.first);
    let mut out: Vec<PortRange> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match out.last_mut() {
            Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => last.last = last.last.max(range.last),
            _ => out.push(range),
        }
    }
    out.into()
}
