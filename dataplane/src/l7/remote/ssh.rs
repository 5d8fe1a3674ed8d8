//! SSH: the version line that both sides begin with (RFC 4253 §4.2).

use crate::flow::Direction;
use crate::l7::{Alpn, Class, Fact, Found, Look, Notes, Verdict};

const BANNERS: [&[u8]; 3] = [b"SSH-2.0-", b"SSH-1.99-", b"SSH-1.5-"];
/// With CR and LF.
const MAX_LINE: usize = 255;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let Some(banner) = BANNERS.iter().find(|b| d.starts_with(b)) else {
        return if BANNERS.iter().any(|b| b.starts_with(d)) { Verdict::More } else { Verdict::No };
    };
    let found = Found::handshake(Class::Ssh, Alpn::None);
    let rest = &d[banner.len()..d.len().min(MAX_LINE)];
    let Some(end) = memchr::memchr(b'\n', rest) else {
        return if look.last || d.len() >= MAX_LINE { Verdict::Settled(found) } else { Verdict::Class(found) };
    };
    let software = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
    notes.facts.put(Fact::Version, &banner[4..banner.len() - 1]);
    let whose = if look.dir == Direction::FromResponder { Fact::Server } else { Fact::UserAgent };
    notes.facts.put(whose, software);
    Verdict::Settled(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_line_and_its_beginnings() {
        let see = |data: &[u8], dir| {
            let mut notes = Notes::default();
            let verdict = look(&Look { last: false, ..Look::whole(data, dir, (22, 1)) }, &mut notes);
            let facts = [Fact::Version, Fact::Server, Fact::UserAgent].map(|f| notes.facts.get(f).map(str::to_owned));
            (verdict, facts)
        };
        let server = |data: &[u8]| see(data, Direction::FromResponder).0;
        let found = Found::handshake(Class::Ssh, Alpn::None);
        let text = |t: &str| Some(t.to_owned());
        assert_eq!(
            see(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", Direction::FromResponder),
            (Verdict::Settled(found), [text("2.0"), text("OpenSSH_9.2p1 Debian-2"), None])
        );
        assert_eq!(
            see(b"SSH-1.99-x\nmore", Direction::FromInitiator),
            (Verdict::Settled(found), [text("1.99"), None, text("x")])
        );
        assert_eq!(server(b"SSH-2.0-Open"), Verdict::Class(found));
        assert_eq!(server(&[b"SSH-2.0-".as_slice(), &[b'x'; 300]].concat()), Verdict::Settled(found));
        assert_eq!((server(b"SSH"), server(b"SSH-1.")), (Verdict::More, Verdict::More));
        assert_eq!((server(b"SSH-3.0-x"), server(b"HELLO")), (Verdict::No, Verdict::No));
    }
}
