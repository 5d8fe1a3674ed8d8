//! The large host's files, what is changed in them from one reload to the next, and who asks for it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use softdpu::control::types::ReloadReport;

use crate::path::ask::ask;
pub use crate::path::ask::status;
use crate::rules::Host;

/// Descriptors of a ring, four times the default: some 9 ms of the stream. Where sender, softirq and reload share one core, the worker is
/// at times handed what was held up there all at once.
const RING: usize = 8192;
/// As many as these rings ask for.
const FRAMES: usize = 32_768;

/// The files of one instance.
pub struct Files {
    host: Host,
    policy: PathBuf,
    intents: PathBuf,
    changes: usize,
}

impl Files {
    /// Ports of the topology, one worker on `core`, the large host's rules and behind them one that forwards.
    pub fn new(near: &str, far: &str, socket: &Path, intents: &Path, core: usize) -> Result<Self> {
        let head = format!(
            "name = \"bench\"\nintents = \"{}\"\n[control]\nsocket = \"{}\"\n[workers]\ncores = [{core}]\nframes = {FRAMES}\n\
             [[port]]\nname = \"near\"\nkind = \"xdp\"\ninterface = \"{near}\"\nring = {RING}\n\
             [[port]]\nname = \"far\"\nkind = \"xdp\"\ninterface = \"{far}\"\nring = {RING}\n\
             [[steer]]\nname = \"udp\"\nprotocol = \"udp\"\naction = \"worker\"\n\
             [[steer]]\nname = \"apps\"\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.0.0.0/8\"]\naction = \"worker\"\n\
             [[steer]]\nname = \"apps-back\"\nfrom = [\"10.0.0.0/8\"]\nto = [\"10.1.0.0/16\"]\naction = \"worker\"\n",
            intents.display(),
            socket.display(),
        );
        let host = Host::new(head);
        host.write_intents(intents)?;
        Ok(Self { host, policy: socket.with_file_name("policy.toml"), intents: intents.to_owned(), changes: 0 })
    }

    pub fn text(&self) -> String {
        self.host.policy()
    }

    /// A few lines, as [`Host::change`] says.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn change(&mut self) -> Result<()> {
        self.changes += 1;
        let intent = self.host.change(self.changes);
        self.host.write_intent(&self.intents, intent)?;
        // As an editor does: a new file takes the old one's place.
        let new = self.policy.with_extension("new");
        std::fs::write(&new, self.host.policy())?;
        Ok(std::fs::rename(&new, &self.policy)?)
    }
}

/// `POST /v1/reload`.
///
/// # Errors
/// What the instance says.
pub fn reload(socket: &Path) -> Result<ReloadReport> {
    ask(socket, "POST", "/v1/reload")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_policy_holds_as_it_is_and_as_it_is_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, intents) = (folder.path().join("socket"), folder.path().join("intents"));
        let mut files = Files::new("near0", "far0", &socket, &intents, 0).unwrap();
        std::fs::write(&files.policy, files.text()).unwrap();
        for _ in 0..3 {
            softdpu::config::load(&files.policy).unwrap_or_else(|e| panic!("{e}"));
            files.change().unwrap();
        }
    }
}
