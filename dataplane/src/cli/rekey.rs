//! `softdpu rekey`: new session keys, now.

use std::io::Write;

use super::args::RekeyArgs;
use super::ask::ask;
use crate::control::client;

pub fn run(args: &RekeyArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let socket = args.instance.path()?;
    let rekeyed = ask(client::rekey(&socket, &args.tunnel, args.peer.as_deref()))?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&rekeyed)?)?;
    } else if rekeyed.begun == 0 {
        writeln!(out, "no handshake could be begun: no peer of `{}` has an endpoint yet", args.tunnel)?;
    } else {
        let handshakes = if rekeyed.begun == 1 { "handshake" } else { "handshakes" };
        writeln!(out, "{} {handshakes} begun", rekeyed.begun)?;
    }
    Ok(rekeyed.begun > 0)
}
