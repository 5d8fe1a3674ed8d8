//! Trying it: a tiny XDP program and an AF_XDP socket on a veth in a throw-away namespace, and on ports only where asked to.
//! Everything made here is held by file descriptors and goes with the thread that made it.

use std::collections::BTreeMap;
use std::io;
use std::thread;

use anyhow::{Context, Result};
use rtnetlink::{LinkUnspec, LinkVeth};
use serde::Serialize;

use crate::host::{netns, nic::Nic};
use crate::io::pool::FramePool;
use crate::io::socket::{BindMode, ZeroCopy};
use crate::io::steer;
use crate::io::umem::Umem;
use crate::io::xdp::{XdpPort, XdpSpec};
use crate::rig::bpf::programs;
use crate::rig::bpf::sys::Program;

/// Frames and ring of a trial: the least there can be, so that memory limits are somebody else's finding.
const FRAMES: u32 = 128;
const RING: u32 = 64;

/// What was tried, and what became of it. A refusal is in the kernel's words.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Live {
    /// Why nothing could be tried in a namespace of its own.
    pub not_tried: Option<String>,
    pub veth: Trial,
    /// By interface: those that were asked for.
    pub ports: BTreeMap<String, Trial>,
    /// Interfaces that a running instance has.
    pub owned: Vec<String>,
}

/// One interface, tried.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Trial {
    /// Why it was left alone.
    pub left_alone: Option<String>,
    pub native: Option<Outcome>,
    pub generic: Option<Outcome>,
    pub socket: Option<Outcome>,
    /// Whether the socket was bound without copies.
    pub zero_copy: bool,
    pub multi_buffer: bool,
}

/// `Err`: why not.
pub type Outcome = std::result::Result<(), String>;

/// Tries the kernel, and looks who owns `ports`. With `on_ports` tries them too: some devices reset their link for that.
pub fn probe(ports: &[String], on_ports: bool) -> Live {
    let mut live = Live::default();
    match throw_away() {
        Ok(trial) => live.veth = trial,
        Err(error) => live.not_tried = Some(format!("{error:#}")),
    }
    for name in ports {
        let Ok(nic) = Nic::look_up(name) else { continue };
        let claim = nic.claim();
        if claim.is_err() {
            live.owned.push(name.clone());
        }
        if on_ports {
            let trial = match claim {
                Ok(_held) => match steer::existing_program(nic.index) {
                    Ok(None) => attempt(name, nic.index, nic.queues - 1),
                    Ok(Some(there)) => Trial::alone(format!("program {} `{}` is on it", there.id, there.name)),
                    Err(error) => Trial::alone(error.to_string()),
                },
                Err(error) => Trial::alone(format!("{error:#}")),
            };
            live.ports.insert(name.clone(), trial);
        }
    }
    live
}

impl Trial {
    fn alone(why: String) -> Self {
        Self { left_alone: Some(why), ..Self::default() }
    }
}

/// A pair of veths in a namespace that nobody else sees.
fn throw_away() -> Result<Trial> {
    let thread = thread::spawn(|| -> Result<Trial> {
        // SAFETY: a number only; only this thread moves, and it ends after the trial.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
            return Err(io::Error::last_os_error()).context("making a network namespace (needs CAP_SYS_ADMIN)");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let index = runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().context("netlink")?;
            let connection = tokio::spawn(connection);
            handle.link().add(LinkVeth::new("try0", "try1").build()).execute().await.context("making a veth")?;
            for name in ["try0", "try1"] {
                let up = LinkUnspec::new_with_index(netns::index_of(name)).up().build();
                handle.link().set(up).execute().await.context("raising a veth")?;
            }
            connection.abort();
            Ok::<_, anyhow::Error>(netns::index_of("try0"))
        })?;
        Ok(attempt("try0", index, 0))
    });
    thread.join().map_err(|_| anyhow::anyhow!("the trial panicked"))?
}

/// Attaches, binds, and leaves things as they were.
fn attempt(name: &str, index: u32, queue: u32) -> Trial {
    let program = match Program::load("doctor", &programs::pass()) {
        Ok(program) => program,
        Err(error) => {
            let why = Err(first_line(&error.to_string()));
            return Trial { native: Some(why.clone()), generic: Some(why), ..Trial::default() };
        }
    };
    let outcome = |attached: io::Result<_>| Some(attached.map(drop).map_err(|e| e.to_string()));
    let mut trial = Trial { generic: outcome(program.attach_generic(index)), ..Trial::default() };
    // Held while the socket is bound: zero-copy needs the driver in XDP mode.
    let native = program.attach(index);
    let bound = bind(name, queue);
    trial.native = outcome(native);
    match bound {
        Ok((mode, multi_buffer)) => {
            trial.socket = Some(Ok(()));
            (trial.zero_copy, trial.multi_buffer) = (mode == BindMode::ZeroCopy, multi_buffer);
        }
        Err(error) => trial.socket = Some(Err(format!("{error:#}"))),
    }
    trial
}

fn bind(name: &str, queue: u32) -> Result<(BindMode, bool)> {
    let mut pool = FramePool::new(Umem::map(FRAMES, 4096, false)?);
    let mut spec = XdpSpec::new(name, queue);
    (spec.socket.ring, spec.socket.zero_copy) = (RING, ZeroCopy::Auto);
    let port = XdpPort::open(&mut pool, &spec)?;
    let found = (port.mode(), port.multi_buffer());
    port.close(&mut pool);
    Ok(found)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_can_be_tried_without_a_trace() {
        // SAFETY: no arguments, cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            println!("skipped: needs root");
            return;
        }
        let live = probe(&["no-such-if0".to_owned()], true);
        assert!(live.not_tried.is_none() && live.ports.is_empty() && live.owned.is_empty(), "{live:?}");
        let Trial { native, generic, socket, .. } = &live.veth;
        assert!(matches!((native, generic, socket), (Some(Ok(())), Some(Ok(())), Some(Ok(())))), "{live:?}");
        assert_eq!(netns::index_of("try0"), 0);
    }
}
