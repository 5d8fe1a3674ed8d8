//! Telnet: option negotiation (RFC 854, RFC 855; options by IANA "Telnet Options").

use crate::l7::{Class, Look, Notes, Verdict};

const PORT: u16 = 23;
const IAC: u8 = 255;
const SE: u8 = 240;
const SB: u8 = 250;
const WILL: u8 = 251;
const DONT: u8 = 254;
/// Of those with a number, the last; MUD's, COMPRESS and their like are above.
const LAST_OPTION: u8 = 49;
const FAR_OPTIONS: [u8; 10] = [69, 70, 85, 86, 90, 91, 93, 200, 201, 255];
/// Bytes of a sub-negotiation.
const MAX_SUB: usize = 512;
/// Commands one after the other that make it certain away from the port.
const ENOUGH: usize = 3;

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    let d = look.data;
    let mut at = 0;
    for n in 0..ENOUGH {
        match command(&d[at..]) {
            Step::Took(len) => at += len,
            Step::Short => return Verdict::More,
            // Text may follow; on the port one command was enough.
            Step::Other if n > 0 && at < d.len() => {
                return if look.has_port(PORT) || n > 1 && d[at].is_ascii() {
                    Verdict::payload(Class::Telnet)
                } else {
                    Verdict::No
                };
            }
            Step::Other => return Verdict::No,
        }
        if look.has_port(PORT) {
            return Verdict::payload(Class::Telnet);
        }
        if at == d.len() && n + 1 < ENOUGH {
            return Verdict::More;
        }
    }
    Verdict::payload(Class::Telnet)
}

enum Step {
    Took(usize),
    Short,
    Other,
}

fn command(d: &[u8]) -> Step {
    let option = |o: u8| o <= LAST_OPTION || FAR_OPTIONS.contains(&o);
    match *d {
        [] | [IAC] => Step::Short,
        [IAC, WILL..=DONT] | [IAC, SB] => Step::Short,
        [IAC, WILL..=DONT, o, ..] if option(o) => Step::Took(3),
        [IAC, SB, o, ..] if option(o) => match d[..d.len().min(MAX_SUB)].windows(2).position(|w| w == [IAC, SE]) {
            Some(end) => Step::Took(end + 2),
            None if d.len() < MAX_SUB => Step::Short,
            None => Step::Other,
        },
        _ => Step::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, hex, no_stream, server};

    #[test]
    fn negotiation() {
        server(23, &hex("fffd25"), Class::Telnet);
        client(1, &hex("fffd03fffb18fffb1f"), Class::Telnet);
        client(1, &hex("fffa22010bfff0 fffd03 fffb18"), Class::Telnet);
        no_stream(1, &hex("fffd25"));
        no_stream(23, &hex("fffb90640000"));
        no_stream(1, &hex("fffb01000000"));
    }
}
