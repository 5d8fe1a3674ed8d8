//! DNSCrypt version 2, told by what every answer begins with (the protocol's description, §"Structure of a response");
//! the queries begin with whatever the resolver's certificate says.

use crate::l7::{Alpn, Class, Found, Look, Notes, Verdict};

const RESOLVER_MAGIC: &[u8] = b"r6fnvWj8";
/// The magic, the client's half of the nonce and the resolver's, a tag, and a padded message.
const LEAST: usize = 8 + 12 + 12 + 16 + 64;

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    if look.data.starts_with(RESOLVER_MAGIC) && look.data.len() >= LEAST {
        return Verdict::Done(Found::handshake(Class::Dnscrypt, Alpn::None));
    }
    Verdict::No
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction;

    #[test]
    fn the_answers_magic_and_room_for_a_message() {
        let see = |d: &[u8]| look(&Look::whole(d, Direction::FromResponder, (443, 40_000)), &mut Notes::default());
        let answer = [RESOLVER_MAGIC, &[7; 120]].concat();
        assert_eq!(see(&answer), Verdict::Done(Found::handshake(Class::Dnscrypt, Alpn::None)));
        for n in 1..LEAST {
            assert_eq!(see(&answer[..n]), Verdict::No, "{n}");
        }
        assert_eq!(see(&[&b"r6fnvWj7"[..], &[7; 120]].concat()), Verdict::No);
    }
}
