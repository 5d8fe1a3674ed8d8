//! PPTP: the control connection's header with its magic cookie (RFC 2637 §1.4, §2).

use crate::l7::{Class, Fact, Look, Notes, Verdict};

const COOKIE: u32 = 0x1a2b_3c4d;
const CONTROL: u16 = 1;
const HEADER: usize = 12;
/// SET-LINK-INFO.
const LAST_TYPE: u16 = 15;
/// Start-Control-Connection-Reply, and where its vendor's name is.
const START_REPLY: u16 = 2;
const VENDOR: std::ops::Range<usize> = 92..156;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    if d[0] != 0 {
        return Verdict::No;
    }
    let cookie = COOKIE.to_be_bytes();
    let seen = d.get(4..).unwrap_or(&[]);
    if !cookie.starts_with(&seen[..seen.len().min(4)]) {
        return Verdict::No;
    }
    let (Some(len), Some(kind), Some(control), Some(reserved)) = (look.u16(0), look.u16(2), look.u16(8), look.u16(10))
    else {
        return Verdict::More;
    };
    if usize::from(len) < HEADER || kind != CONTROL || !(1..=LAST_TYPE).contains(&control) || reserved != 0 {
        return Verdict::No;
    }
    if control == START_REPLY {
        let Some(vendor) = d.get(VENDOR) else {
            return if look.last { Verdict::payload(Class::Pptp) } else { Verdict::More };
        };
        notes.facts.put(Fact::Server, &vendor[..vendor.iter().position(|b| *b == 0).unwrap_or(vendor.len())]);
    }
    Verdict::payload(Class::Pptp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction::FromInitiator;
    use crate::l7::infra::testing::{fact, hex, is_tcp, tcp};

    #[test]
    fn control_messages() {
        is_tcp(look, &hex("009c 0001 1a2b3c4d 0001 0000 0100"), 9, Class::Pptp);
        let mut reply = hex("009c 0001 1a2b3c4d 0002 0000 0100");
        reply.resize(156, 0);
        reply[92..97].copy_from_slice(b"linux");
        is_tcp(look, &reply, 1723, Class::Pptp);
        assert_eq!(fact(look, &reply, 1723, Fact::Server).as_deref(), Some("linux"));
        for no in [
            "009c 0002 1a2b3c4d 0001 0000",
            "009c 0001 1a2b3c4e",
            "009c 0001 1a2b3c4d 0010 0000",
            "0008 0001 1a2b3c4d 0001 0000",
        ] {
            assert_eq!(tcp(look, &hex(no), FromInitiator, 1723), Verdict::No, "{no}");
        }
    }
}
