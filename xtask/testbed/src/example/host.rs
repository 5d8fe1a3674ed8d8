//! Two sites of namespaces with the files of `configs/`, softdpu on both edges, and its command line.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    cleanup::RunDir,
    edge::Edge,
    policy::{self, EdgeFiles, Side},
    process::{self, Said},
    topology::{Options, Topology},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// The folder as both teams would have it: `policies/`, `intents/`, keys.
#[derive(Debug)]
pub struct Files {
    root: PathBuf,
    binary: PathBuf,
    pub edges: [EdgeFiles; 2],
}

impl Files {
    /// Copies policies and intents, makes keys, and gives each policy a control socket in the folder.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn new(binary: &Path, configs: &Path, folder: &RunDir) -> Result<Self> {
        let root = folder.path().to_owned();
        fs::create_dir_all(root.join("policies/keys"))?;
        fs::create_dir_all(root.join("intents"))?;
        for name in ["payments", "backups", "video"] {
            let file = format!("intents/{name}.intent.toml");
            fs::copy(configs.join(&file), root.join(&file)).with_context(|| file)?;
        }
        for key in ["a-to-b", "b-to-a"] {
            policy::write_key(&root.join(format!("policies/keys/{key}.key")), 36)?;
        }
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let edge = |side: Side, name: &str, core: usize| -> Result<EdgeFiles> {
            let policy = root.join(format!("policies/{name}.toml"));
            let files = EdgeFiles {
                side,
                policy,
                socket: root.join(format!("{name}.sock")),
                log: root.join(format!("{name}.log")),
            };
            let text = fs::read_to_string(configs.join(format!("policies/{name}.toml"))).context(name.to_owned())?;
            let text = text.replace("cores = [0]", &format!("cores = [{}]", core % cpus));
            // At the end, so that lines keep their numbers.
            let socket = format!("\n[control]\nsocket = \"{}\"\n", files.socket.display());
            fs::write(&files.policy, text + &socket)?;
            Ok(files)
        };
        let edges = [edge(Side::A, "example-a", 0)?, edge(Side::B, "example-b", 1)?];
        Ok(Self { root, binary: binary.to_owned(), edges })
    }

    /// Text of a file of the folder.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, file: &str) -> Result<String> {
        fs::read_to_string(self.root.join(file)).with_context(|| file.to_owned())
    }

    /// Writes a file of the folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        fs::write(self.root.join(file), text).with_context(|| file.to_owned())
    }

    /// Removes a file of the folder.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, file: &str) -> Result<()> {
        fs::remove_file(self.root.join(file)).with_context(|| file.to_owned())
    }

    /// softdpu in the folder, as somebody there would type it; the words in `aside` are not shown to anybody.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn softdpu(&self, words: &[&str], aside: &[&str]) -> Result<Said> {
        let mut command = Command::new(&self.binary);
        command.args(words).args(aside).current_dir(&self.root).env("NO_COLOR", "1");
        process::run(&mut command, PATIENCE)
    }

    /// The same of the running edge A.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn ask(&self, words: &[&str]) -> Result<Said> {
        let socket = self.edges[0].socket.display().to_string();
        self.softdpu(words, &["--socket", &socket])
    }

    /// The same as JSON.
    ///
    /// # Errors
    /// When it answers none.
    pub fn json(&self, words: &[&str]) -> Result<Value> {
        let said = self.ask(&[words, &["--json"]].concat())?;
        serde_json::from_str(&said.out).with_context(|| format!("{words:?}: {}{}", said.err, said.out))
    }
}

/// The hosts, with what flows in the driver need: senders that finish their checksums, and veths that take XDP frames.
///
/// # Errors
/// When a namespace or link cannot be made.
pub fn hosts(tag: &str) -> Result<Topology> {
    let topology = Topology::new(&Options { offload: false, ..Options::new(tag) })?;
    let wire = &topology.wire;
    for (ns, link) in [(&topology.client, "eth0"), (&topology.server, "eth0"), (wire, "to-a"), (wire, "to-b")] {
        let mut ethtool = ns.command("ethtool");
        process::run(ethtool.args(["-K", link, "gro", "on"]), PATIENCE)?.ok()?;
    }
    Ok(topology)
}

/// softdpu on both.
///
/// # Errors
/// When one does not come up.
pub fn start(files: &Files, topology: &Topology) -> Result<[Edge; 2]> {
    let a = Edge::start(&files.binary, &topology.edge_a, &files.edges[0]).context("example-a")?;
    let b = Edge::start(&files.binary, &topology.edge_b, &files.edges[1]).context("example-b")?;
    Ok([a, b])
}
