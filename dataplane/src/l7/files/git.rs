//! Git's own transport: the request and the first line of the answer (gitprotocol-pack, gitprotocol-v2).

use crate::l7::text::{before, could_be, has, word};
use crate::l7::{Class, Fact, Look, Notes, Verdict};

/// Four hexadecimal digits of a length that counts itself.
const LENGTH: usize = 4;
const MAX_LINE: usize = 4096;
const REQUESTS: [&[u8]; 3] = [b"git-upload-pack ", b"git-receive-pack ", b"git-upload-archive "];
const OBJECT: usize = 40;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    if !d.iter().take(LENGTH).all(u8::is_ascii_hexdigit) {
        return Verdict::No;
    }
    let Some(digits) = d.first_chunk::<LENGTH>() else { return Verdict::More };
    let len = digits.iter().fold(0, |n, b| n << 4 | (*b as char).to_digit(16).unwrap_or(0) as usize);
    if !(LENGTH + 5..=MAX_LINE).contains(&len) {
        return Verdict::No;
    }
    let begun = &d[LENGTH..];
    let request = could_be(begun, &REQUESTS);
    let version = could_be(begun, &[b"version 2\n", b"version 1\n"]);
    let object = begun.iter().take(OBJECT).all(u8::is_ascii_hexdigit) && begun.get(OBJECT).is_none_or(|b| *b == b' ');
    if !request && !version && !object {
        return Verdict::No;
    }
    let Some(line) = d.get(LENGTH..len) else { return Verdict::More };
    let told = if request {
        asks(line, notes)
    } else if version {
        line.len() == 10
    } else {
        // The first reference has the capabilities behind it.
        line.len() > OBJECT + 1
            && has(line, b"\0")
            && (has(line, b"multi_ack") || has(line, b"report-status") || has(line, b"ofs-delta"))
    };
    if told { Verdict::payload(Class::Git) } else { Verdict::No }
}

/// Path, NUL, `host=name[:port]`.
fn asks(line: &[u8], notes: &mut Notes) -> bool {
    let mut parts = line.split(|b| *b == 0);
    let path = parts.next().map_or(&[][..], |first| word(first).1);
    if !path.starts_with(b"/") {
        return false;
    }
    notes.facts.put(Fact::Object, path);
    if let Some(host) = parts.find_map(|p| p.strip_prefix(b"host=")) {
        let name = host.strip_prefix(b"[").map_or(before(host, b':'), |v6| before(v6, b']'));
        notes.host.push(name);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, no_stream, server};

    #[test]
    fn request_and_answers() {
        let told = client(1, b"0031git-upload-pack /a.git\0host=Git.example:9418\0", Class::Git);
        assert_eq!((told.host.as_str(), told.facts.get(Fact::Object)), ("git.example", Some("/a.git")));
        server(9418, b"000eversion 2\n", Class::Git);
        let refs = [b"0045", &[b'a'; 40][..], b" HEAD\0multi_ack thin-pack"].concat();
        server(9418, &refs, Class::Git);
        no_stream(9418, b"0032git-upload-pick /a.git\0host=Git.example:9418\0");
        no_stream(9418, b"0000");
        no_stream(9418, b"000123456789");
    }
}
