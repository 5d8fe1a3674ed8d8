//! TLS that was begun inside another protocol (STARTTLS and its like): the class stays, host and facts are TLS's.

use super::web::tls;
use super::{Fact, Found, Look, Notes, Verdict};

/// Looks at a client's stream of class `found` from `at` on, where TLS may begin: something else there, and nothing more
/// is to be learnt.
pub fn tls(look: &Look, at: usize, found: Found, notes: &mut Notes) -> Verdict {
    let Some(data) = look.data.get(at..).filter(|d| !d.is_empty()) else { return Verdict::Class(found) };
    let mut of_tls = Notes::default();
    let verdict = tls::look(&Look { data, ..*look }, &mut of_tls);
    let (known, done) = match verdict {
        Verdict::No => return Verdict::Done(found),
        Verdict::More => return Verdict::Class(found),
        Verdict::Class(known) => (known, false),
        Verdict::Done(known) | Verdict::Other(known) | Verdict::Settled(known) => (known, true),
    };
    notes.facts.put(Fact::Upgrade, b"tls");
    notes.facts.merge(&of_tls.facts);
    if let Some(name) = of_tls.host.get() {
        notes.host.clear();
        notes.host.push(name.as_bytes());
    }
    let found = Found { alpn: known.alpn, ..found };
    if done { Verdict::Done(found) } else { Verdict::Class(found) }
}
