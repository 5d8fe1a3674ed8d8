//! rsync: the line that both sides of its daemon begin with (rsync source, clientserver.c).

use crate::l7::text::line;
use crate::l7::{Class, Fact, Look, Notes, Verdict};

const MARK: &[u8] = b"@RSYNCD: ";

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    match look.begins(MARK) {
        None => return Verdict::More,
        Some(false) => return Verdict::No,
        Some(true) => {}
    }
    let rest = &look.data[MARK.len()..];
    let Some((said, _)) = line(&rest[..rest.len().min(128)]) else { return Verdict::More };
    if said.first().is_some_and(u8::is_ascii_digit) {
        notes.facts.put(Fact::Version, said);
    }
    Verdict::payload(Class::Rsync)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, no_stream, server};

    #[test]
    fn greetings() {
        assert_eq!(client(873, b"@RSYNCD: 30.0\n", Class::Rsync).facts.get(Fact::Version), Some("30.0"));
        server(1, b"@RSYNCD: OK\n", Class::Rsync);
        no_stream(873, b"@ERROR: x\n");
    }
}
