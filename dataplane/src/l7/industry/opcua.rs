//! OPC UA's binary protocol: messages by type, chunk and size (OPC 10000-6 §6.7.2, §7.1.2). The endpoint's host is noted.

use crate::l7::infra::read::{le32_at, url_host};
use crate::l7::{Class, Fact, Look, Notes, Verdict};

const PORT: u16 = 4840;
const HEADER: usize = 8;
const HELLO_FIXED: usize = 32;
const ACKNOWLEDGE: u32 = 28;
/// Smallest buffers that may be offered (§7.1.2.3).
const LEAST_BUFFER: u32 = 8192;
const LONGEST_URL: u32 = 4096;
const POLICIES: &[u8] = b"http://opcfoundation.org/UA/SecurityPolicy#";

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    match &d[..d.len().min(4)] {
        b"HELF" => hello(look, notes),
        b"ACKF" => match (look.u32_le(4), look.u32_le(12), look.u32_le(16)) {
            (Some(size), ..) if size != ACKNOWLEDGE => Verdict::No,
            (_, Some(receive), Some(send)) if receive >= LEAST_BUFFER && send >= LEAST_BUFFER => done(),
            (_, Some(_), Some(_)) => Verdict::No,
            _ => Verdict::More,
        },
        b"OPNF" => match (look.u32_le(12), d.get(16..16 + POLICIES.len())) {
            (Some(len), _) if !(POLICIES.len()..256).contains(&(len as usize)) => Verdict::No,
            (_, Some(policy)) if policy == POLICIES => done(),
            (_, Some(_)) => Verdict::No,
            _ => Verdict::More,
        },
        // In mid-life, with the channel's and the token's numbers.
        [b'M', b'S', b'G', b'F' | b'C' | b'A'] | b"CLOF" => match (look.u32_le(4), look.u32_le(8)) {
            (Some(size), Some(channel)) if (24..1 << 24).contains(&size) && channel != 0 && look.has_port(PORT) => {
                done()
            }
            (Some(_), Some(_)) => Verdict::No,
            _ if look.has_port(PORT) => Verdict::More,
            _ => Verdict::No,
        },
        short
            if short.len() < 4
                && [b"HELF", b"ACKF", b"OPNF", b"MSGF", b"CLOF"].iter().any(|t| t.starts_with(short)) =>
        {
            Verdict::More
        }
        _ => Verdict::No,
    }
}

fn done() -> Verdict {
    Verdict::payload(Class::Opcua)
}

/// Version, four limits, and the endpoint's URL to the end of the message.
fn hello(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let (Some(size), Some(url)) = (look.u32_le(4), look.u32_le(28)) else { return Verdict::More };
    if url > LONGEST_URL || size as usize != HELLO_FIXED + url as usize {
        return Verdict::No;
    }
    if [12, 16].iter().any(|at| le32_at(d, *at).is_none_or(|buffer| buffer < LEAST_BUFFER))
        || look.u32_le(HEADER).is_none()
    {
        return Verdict::No;
    }
    let Some(url) = d.get(HELLO_FIXED..size as usize) else { return if look.last { done() } else { Verdict::More } };
    if let Some(rest) = url.strip_prefix(b"opc.tcp://") {
        notes.host.push(url_host(rest));
        notes.facts.put(Fact::Path, url);
    }
    done()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction::FromInitiator;
    use crate::l7::infra::testing::{hex, host, is_tcp, tcp};

    #[test]
    fn messages() {
        let url = b"opc.tcp://plc.example:4840/x";
        let mut d = [b"HELF", &hex("3c000000 00000000 00000100 00000100 00000000 00000000 1c000000")[..], url].concat();
        is_tcp(look, &d, 9, Class::Opcua);
        assert_eq!(host(look, &d, 9).as_deref(), Some("plc.example"));
        d[4] += 1;
        assert_eq!(tcp(look, &d, FromInitiator, PORT), Verdict::No);
        is_tcp(
            look,
            &[b"ACKF", &hex("1c000000 00000000 00000100 00000100 00000000 00000000")[..]].concat(),
            9,
            Class::Opcua,
        );
        is_tcp(look, &[b"OPNF", &hex("85000000 00000000 2f000000")[..], POLICIES, b"None"].concat(), 9, Class::Opcua);
        is_tcp(look, &[b"MSGF", &hex("20000000 01000000")[..]].concat(), PORT, Class::Opcua);
        assert_eq!(tcp(look, b"HELP me", FromInitiator, PORT), Verdict::No);
        assert_eq!(tcp(look, b"HELO x.example\r\n", FromInitiator, PORT), Verdict::No);
    }
}
