//! SSH: the version line that both sides begin with (RFC 4253 §4.2).

use crate::l7::{Class, Found, Look, Notes, Verdict};

const BANNERS: [&[u8]; 3] = [b"SSH-2.0-", b"SSH-1.99-", b"SSH-1.5-"];

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    for banner in BANNERS {
        if look.data.starts_with(banner) {
            return Verdict::Done(Found::handshake(Class::Ssh, crate::l7::Alpn::None));
        }
    }
    if BANNERS.iter().any(|b| b.starts_with(look.data)) { Verdict::More } else { Verdict::No }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction;

    #[test]
    fn the_version_line_and_its_beginnings() {
        let see = |data: &[u8]| {
            let look = Look { last: false, ..Look::whole(data, Direction::FromResponder, (22, 1)) };
            super::look(&look, &mut Notes::default())
        };
        let found = Verdict::Done(Found::handshake(Class::Ssh, crate::l7::Alpn::None));
        assert_eq!(see(b"SSH-2.0-OpenSSH_9.2p1\r\n"), found);
        assert_eq!(see(b"SSH-1.99-x"), found);
        assert_eq!((see(b"SSH"), see(b"SSH-1.")), (Verdict::More, Verdict::More));
        assert_eq!((see(b"SSH-3.0-x"), see(b"HELLO")), (Verdict::No, Verdict::No));
    }
}
