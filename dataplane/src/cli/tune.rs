//! `softdpu tune`: what settings are worth on this host.

use std::io::Write;

use super::args::TuneArgs;

pub fn run(_args: &TuneArgs, _out: &mut impl Write) -> anyhow::Result<bool> {
    anyhow::bail!("not yet")
}
