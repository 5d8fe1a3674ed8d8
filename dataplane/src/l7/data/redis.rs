//! Redis and its kin: commands as arrays of strings, and answers that only it gives ("RESP protocol spec", versions 2
//! and 3).

use crate::l7::text::{could_be, line, number};
use crate::l7::{Class, Found, Look, Notes, Verdict};

const PORT: u16 = 6379;
const MAX_ELEMENTS: u32 = 1 << 20;
/// Elements of a command that are checked.
const CHECKED: u32 = 4;
const MAX_COMMAND: usize = 24;
/// Errors have a code in capitals.
const ERRORS: [&[u8]; 10] = [
    b"-NOAUTH ",
    b"-WRONGPASS ",
    b"-MOVED ",
    b"-ASK ",
    b"-LOADING ",
    b"-READONLY ",
    b"-DENIED Redis",
    b"-NOPROTO ",
    b"-NOPERM ",
    b"-ERR unknown command",
];
/// What a command without an array looks like, and short answers: on the port alone.
const ON_PORT: [&[u8]; 8] =
    [b"PING\r\n", b"ping\r\n", b"INFO\r\n", b"info\r\n", b"+OK\r\n", b"+PONG\r\n", b"$-1\r\n", b"+QUEUED\r\n"];

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    let d = look.data;
    match d[0] {
        b'*' => array(look),
        b'-' if ERRORS.iter().any(|e| d.starts_with(e)) => Verdict::Other(Found::payload(Class::Redis)),
        b'-' if d.len() < 22 && ERRORS.iter().any(|e| e.starts_with(d)) => Verdict::More,
        b'%' => told_or_begun(d, &[b"%7\r\n$6\r\nserver\r\n", b"%8\r\n$6\r\nserver\r\n"]),
        b'$' if d.len() > 24 && look.has_port(PORT) => bulk(d),
        _ if look.has_port(PORT) && ON_PORT.contains(&d) => Verdict::payload(Class::Redis),
        _ => Verdict::No,
    }
}

fn told_or_begun(d: &[u8], texts: &[&[u8]]) -> Verdict {
    if texts.iter().any(|t| d.starts_with(t)) {
        Verdict::payload(Class::Redis)
    } else if d.len() < 16 && could_be(d, texts) {
        Verdict::More
    } else {
        Verdict::No
    }
}

/// `*2\r\n$3\r\nGET\r\n$1\r\na\r\n`: the first string is a command's name.
fn array(look: &Look) -> Verdict {
    let d = look.data;
    let Some((head, mut at)) = line_with_cr(d) else { return begun(d) };
    let Some(elements) = number(&head[1..]).filter(|n| (1..=MAX_ELEMENTS).contains(n)) else { return Verdict::No };
    for i in 0..elements.min(CHECKED) {
        let rest = &d[at..];
        if rest.first().is_some_and(|b| *b != b'$') {
            return Verdict::No;
        }
        let Some((head, next)) = line_with_cr(rest) else {
            // Lengths are short; the name was enough.
            return if i > 0 { Verdict::payload(Class::Redis) } else { begun(rest) };
        };
        let Some(len) = number(&head[1..]) else { return Verdict::No };
        let (from, to) = (at + next, at + next + len as usize);
        if i == 0 && !(2..=MAX_COMMAND).contains(&(len as usize)) {
            return Verdict::No;
        }
        let text = &d[from..to.min(d.len())];
        let name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if i == 0 && (!text.iter().all(name) || text.first().is_some_and(|b| !b.is_ascii_alphabetic())) {
            return Verdict::No;
        }
        match d.get(to..to + 2) {
            Some(b"\r\n") => at = to + 2,
            Some(_) => return Verdict::No,
            None if i > 0 => return Verdict::payload(Class::Redis),
            None => return Verdict::More,
        }
    }
    Verdict::payload(Class::Redis)
}

/// A string whose length is right.
fn bulk(d: &[u8]) -> Verdict {
    let told = line_with_cr(d).and_then(|(head, at)| {
        let end = at + number(&head[1..])? as usize;
        (d.get(end..) == Some(b"\r\n")).then_some(())
    });
    if told.is_some() { Verdict::payload(Class::Redis) } else { Verdict::No }
}

/// A line that ends in both CR and LF, the CR taken off.
fn line_with_cr(d: &[u8]) -> Option<(&[u8], usize)> {
    let (head, next) = line(d.get(..d.len().min(16))?)?;
    (head.len() + 2 == next).then_some((head, next))
}

/// A type's mark, and digits up to a CR.
fn begun(d: &[u8]) -> Verdict {
    let digits = d.iter().skip(1).take_while(|b| b.is_ascii_digit()).count();
    let rest = d.get(1 + digits..).unwrap_or(&[]);
    if digits <= 9 && (rest.is_empty() || digits > 0 && rest == b"\r") { Verdict::More } else { Verdict::No }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, no_stream, server};

    #[test]
    fn commands_and_answers() {
        client(1, b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n", Class::Redis);
        client(6379, b"*1\r\n$4\r\nPING\r\n", Class::Redis);
        client(6379, b"PING\r\n", Class::Redis);
        server(6379, b"-NOAUTH Authentication required.\r\n", Class::Redis);
        server(6379, b"%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n", Class::Redis);
        for other in
            [&b"* OK\r\n"[..], b"*2\r\n$3\r\nGETX\r\n", b"*0\r\n", b"*1\n$4\nPING\n", b"-ERR\r\n", b"*1\r\n$99\r\nx"]
        {
            no_stream(6379, other);
        }
        no_stream(80, b"PING\r\n");
    }
}
