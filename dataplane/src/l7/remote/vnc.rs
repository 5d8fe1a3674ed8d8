//! VNC: the version that both sides begin with (RFC 6143 §7.1.1).

use crate::l7::{Class, Fact, Look, Notes, Verdict};

const LEN: usize = 12;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let shape = b"RFB 000.000\n";
    let d = &look.data[..look.data.len().min(LEN)];
    if !d.iter().zip(shape).all(|(b, s)| if *s == b'0' { b.is_ascii_digit() } else { b == s }) {
        return Verdict::No;
    }
    if d.len() < LEN {
        return Verdict::More;
    }
    notes.facts.put(Fact::Version, &d[4..11]);
    Verdict::payload(Class::Vnc)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, no_stream, server};

    #[test]
    fn versions() {
        assert_eq!(server(5900, b"RFB 003.008\n", Class::Vnc).facts.get(Fact::Version), Some("003.008"));
        client(1, b"RFB 004.001\n\x01", Class::Vnc);
        no_stream(5900, b"RFB 3.8\n");
        no_stream(5900, b"RFB 003.008 ");
    }
}
