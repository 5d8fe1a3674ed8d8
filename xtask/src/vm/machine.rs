//! QEMU: boots an image and gives what the VM says, line by line, with an end in time whatever happens inside.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{folder, kernel::Kernel, protocol::Word};
use crate::run;

const PROGRAM: &str = "qemu-system-x86_64";

/// Pairs of virtio-net links, each pair on a hub of its own. The MAC addresses are 52:54:00:00:HUB:END, by which tests find them.
const HUBS: u8 = 3;

/// What a driver needs to hand its buffers to AF_XDP without a copy: no offload that puts a packet together from several buffers
/// or leaves its checksum open, a modern device, and one whose addresses go through the kernel's DMA interface.
const ZERO_COPY: &str =
    "guest_tso4=off,guest_tso6=off,guest_ufo=off,guest_ecn=off,guest_csum=off,disable-legacy=on,iommu_platform=on";

/// A machine to be started.
#[derive(Debug)]
pub struct Machine<'a> {
    pub kernel: &'a Kernel,
    pub image: &'a Path,
    /// Longest that it may run.
    pub limit: Duration,
}

impl Machine<'_> {
    /// What its kernel says.
    pub fn console(&self) -> PathBuf {
        folder().join(format!("console-{}.log", self.kernel.line))
    }

    fn command(&self, append: &str) -> Result<Command> {
        let program = run::which(PROGRAM).with_context(|| format!("{PROGRAM} is missing"))?;
        let mut command = Command::new(program);
        // KVM is not asked for: where this runs it is often missing or broken, and a run should be alike everywhere.
        // One processor: emulated side by side, two now and then miss that the kernel changes its own code (seen as an Oops in
        // int3). Without cmpxchg16b, whose flags QEMU 7.2 now and then spoils when it is interrupted (seen as a double fault in
        // the kernel's allocator); kernels do without.
        command.args(["-accel", "tcg,thread=single", "-cpu", "max,-cx16", "-smp", "1", "-m", "3072"]);
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
        command.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(self.image);
        command.arg("-append").arg(format!("console=ttyS0 panic=-1 mitigations=off {append}"));
        command.args(["-device", "virtio-rng-pci"]);
        for hub in 1..=HUBS {
            for end in 1..=2 {
                let name = format!("h{hub}e{end}");
                command.arg("-netdev").arg(format!("hubport,id={name},hubid={hub}"));
                command
                    .arg("-device")
                    .arg(format!("virtio-net-pci,netdev={name},mac=52:54:00:00:{hub:02x}:{end:02x},{ZERO_COPY}"));
            }
        }
        // SAFETY: one system call between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        Ok(command)
    }

    /// Boots to a shell on the caller's terminal.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn shell(&self) -> Result<()> {
        let mut command = self.command("vm.shell")?;
        command.args(["-serial", "mon:stdio", "-serial", "null"]);
        ensure!(command.status()?.success(), "QEMU failed");
        Ok(())
    }

    /// Boots, and hands each line to `take` until the VM ends.
    ///
    /// # Errors
    /// When QEMU cannot be started, ends before the VM is done, or runs for longer than the limit.
    pub fn run(&self, mut take: impl FnMut(Word)) -> Result<()> {
        let console = self.console();
        let _ = fs::remove_file(&console);
        let mut command = self.command("quiet")?;
        command.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
        let errors = folder().join("qemu.log");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(fs::File::create(&errors)?);
        let mut child = Running(command.spawn().context("start QEMU")?);
        let (sender, receiver) = mpsc::channel();
        let pipe = child.0.stdout.take().context("a pipe was asked for")?;
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                if sender.send(Word::read(&String::from_utf8_lossy(&line))).is_err() {
                    break;
                }
            }
        });
        let end = Instant::now() + self.limit;
        let mut done = false;
        loop {
            match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(word) => {
                    done |= word == Word::Done;
                    take(word);
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "the VM was stopped after {} s; its kernel's last words:\n{}",
                        self.limit.as_secs(),
                        last_words(&console)
                    )
                }
            }
        }
        let _ = reader.join();
        let status = child.0.wait()?;
        if !done {
            let said = fs::read_to_string(&errors).unwrap_or_default();
            bail!(
                "the VM ended before it was done ({status}). {}\nIts kernel's last words:\n{}",
                said.trim(),
                last_words(&console)
            );
        }
        Ok(())
    }
}

fn last_words(console: &Path) -> String {
    let bytes = fs::read(console).unwrap_or_default();
    softdpu_testbed::process::tail(&String::from_utf8_lossy(&bytes), 25)
}

/// QEMU, killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
