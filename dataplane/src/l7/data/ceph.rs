//! Ceph: the banner of the messenger's first and second version (Ceph, "Messenger v1", "msgr2 protocol").

use crate::l7::text::could_be;
use crate::l7::{Class, Fact, Look, Notes, Verdict};

const V1: &[u8] = b"ceph v027";
const V2: &[u8] = b"ceph v2\n";
/// Behind the second version's banner: the length of what follows, two words of 64 bits of supported and required
/// features, and room for more.
const MAX_FEATURES: u16 = 256;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    if d.starts_with(V1) {
        notes.facts.put(Fact::Version, b"1");
        return Verdict::payload(Class::Ceph);
    }
    if d.starts_with(V2) {
        return match look.u16_le(V2.len()) {
            Some(16..=MAX_FEATURES) => {
                notes.facts.put(Fact::Version, b"2");
                Verdict::payload(Class::Ceph)
            }
            Some(_) => Verdict::No,
            None => Verdict::More,
        };
    }
    let short = d.len() < V1.len() && could_be(d, &[V1, V2]) && (V1.starts_with(d) || V2.starts_with(d));
    if short { Verdict::More } else { Verdict::No }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, no_stream, server};

    #[test]
    fn banners() {
        server(6789, b"ceph v027\0\0\0\x01\0\0\0\0", Class::Ceph);
        client(3300, b"ceph v2\n\x10\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", Class::Ceph);
        no_stream(6789, b"ceph v2\n\x01\0");
        no_stream(6789, b"ceph osd tree\n");
    }
}
