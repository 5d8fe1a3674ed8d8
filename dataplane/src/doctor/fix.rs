//! What `--fix` may change: settings that can be read, written and put back. Nothing here takes anything away from others.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::host::ethtool::{Channel, Ethtool};
use crate::host::netns;

/// A setting of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Setting {
    /// `ethtool -K`: on or off.
    Offload { interface: String, name: String },
    /// `ethtool -L`: a number.
    Queues { interface: String, channel: String },
    /// `ethtool -G … rx`: a number.
    RxRing { interface: String },
    /// Bytes.
    Mtu { interface: String },
    /// One line in a file under /proc/sys, /proc/irq or /sys.
    File { path: String },
}

/// A setting and the value it is to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Path of the network namespace; `None`: this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub setting: Setting,
    pub value: String,
}

/// Folders whose files may be written.
const WRITABLE: [&str; 3] = ["/proc/sys/", "/proc/irq/", "/sys/"];

impl Setting {
    /// The value in force.
    ///
    /// # Errors
    /// There is no such setting.
    pub fn read(&self) -> Result<String> {
        let ethtool = Ethtool::open()?;
        Ok(match self {
            Self::Offload { interface, name } => {
                let all = ethtool.offloads(interface);
                let on = all.get(name).with_context(|| format!("{interface} has no offload `{name}`"))?;
                if *on { "on" } else { "off" }.to_owned()
            }
            Self::Queues { interface, channel } => {
                let queues = ethtool.queues(interface).with_context(|| format!("queues of {interface}"))?;
                match which(channel)? {
                    Channel::Rx => queues.rx,
                    Channel::Tx => queues.tx,
                    Channel::Combined => queues.combined,
                }
                .to_string()
            }
            Self::RxRing { interface } => {
                ethtool.rings(interface).with_context(|| format!("rings of {interface}"))?.rx.to_string()
            }
            Self::Mtu { interface } => {
                let text = std::fs::read_to_string(format!("/sys/class/net/{interface}/mtu"));
                text.with_context(|| format!("MTU of {interface}"))?.trim().to_owned()
            }
            Self::File { path } => {
                let text = std::fs::read_to_string(allowed(path)?).with_context(|| path.clone())?;
                // Files of several words have the one in force in brackets.
                let chosen = text.split_once('[').and_then(|(_, rest)| Some(rest.split_once(']')?.0));
                chosen.unwrap_or(text.trim()).to_owned()
            }
        })
    }

    /// # Errors
    /// The kernel or the device refuses the value.
    pub fn write(&self, value: &str) -> Result<()> {
        let ethtool = Ethtool::open()?;
        let number = || value.parse::<u32>().with_context(|| format!("`{value}` is no number"));
        match self {
            Self::Offload { interface, name } => {
                let on = match value {
                    "on" => true,
                    "off" => false,
                    other => bail!("`{other}` is neither on nor off"),
                };
                ethtool.set_offload(interface, name, on).with_context(|| format!("{interface}: {name} {value}"))
            }
            Self::Queues { interface, channel } => {
                let done = ethtool.set_queues(interface, which(channel)?, number()?);
                done.with_context(|| format!("{interface}: {value} {channel} queues"))
            }
            Self::RxRing { interface } => {
                ethtool.set_rx_ring(interface, number()?).with_context(|| format!("{interface}: ring of {value}"))
            }
            Self::Mtu { interface } => {
                ethtool.set_mtu(interface, number()?).with_context(|| format!("{interface}: MTU {value}"))
            }
            Self::File { path } => {
                std::fs::write(allowed(path)?, value).with_context(|| format!("writing {value} to {path}"))
            }
        }
    }

    fn command(&self, value: &str) -> String {
        match self {
            Self::Offload { interface, name } => format!("ethtool -K {interface} {name} {value}"),
            Self::Queues { interface, channel } => format!("ethtool -L {interface} {channel} {value}"),
            Self::RxRing { interface } => format!("ethtool -G {interface} rx {value}"),
            Self::Mtu { interface } => format!("ip link set dev {interface} mtu {value}"),
            Self::File { path } => match path.strip_prefix("/proc/sys/") {
                // With slashes, because an interface's name may have dots.
                Some(key) if key.contains('.') => format!("sysctl -w {key}={value}"),
                Some(key) => format!("sysctl -w {}={value}", key.replace('/', ".")),
                None => format!("echo {value} > {path}"),
            },
        }
    }
}

impl Change {
    /// An offload of an interface, here or in another namespace.
    pub fn offload(namespace: Option<&str>, interface: &str, name: &str, on: bool) -> Self {
        let setting = Setting::Offload { interface: interface.to_owned(), name: name.to_owned() };
        let value = if on { "on" } else { "off" };
        Self { namespace: namespace.map(str::to_owned), setting, value: value.to_owned() }
    }

    /// A file under /proc/sys, /proc/irq or /sys, as this namespace sees it.
    #[allow(clippy::needless_pass_by_value)] // numbers and words: a reference would only clutter the calls
    pub fn file(path: impl Into<String>, value: impl ToString) -> Self {
        Self { namespace: None, setting: Setting::File { path: path.into() }, value: value.to_string() }
    }

    /// A setting of this namespace.
    #[allow(clippy::needless_pass_by_value)] // as above
    pub fn here(setting: Setting, value: impl ToString) -> Self {
        Self { namespace: None, setting, value: value.to_string() }
    }

    /// What somebody would type to the same effect.
    pub fn command(&self) -> String {
        let command = self.setting.command(&self.value);
        match self.namespace.as_deref() {
            None => command,
            Some(path) => match path.strip_prefix("/run/netns/") {
                Some(name) => format!("ip netns exec {name} {command}"),
                None => format!("nsenter --net={path} {command}"),
            },
        }
    }

    /// The value in force where the change is to be made.
    ///
    /// # Errors
    /// The namespace cannot be entered, or has no such setting.
    pub fn now(&self) -> Result<String> {
        netns::within(self.namespace.as_deref(), || self.setting.read())
    }

    /// Makes the change. Returns the value that was in force before and what tells the namespace from others.
    ///
    /// # Errors
    /// The namespace cannot be entered, or refuses.
    pub fn apply(&self) -> Result<(String, (u64, u64))> {
        netns::within(self.namespace.as_deref(), || {
            let before = self.setting.read()?;
            self.setting.write(&self.value)?;
            Ok((before, netns::identity()?))
        })
    }
}

fn which(channel: &str) -> Result<Channel> {
    let all = [Channel::Rx, Channel::Tx, Channel::Combined];
    all.into_iter().find(|c| c.name() == channel).with_context(|| format!("`{channel}` is no kind of queue"))
}

/// A record on disk may say anything: only settings are written.
fn allowed(path: &str) -> Result<&Path> {
    let inside = WRITABLE.iter().any(|folder| path.starts_with(folder)) && !path.split('/').any(|part| part == "..");
    ensure!(inside, "{path} is no setting of the kernel");
    Ok(Path::new(path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn commands_are_what_people_type() {
        assert_eq!(Change::offload(None, "eth0", "gro", true).command(), "ethtool -K eth0 gro on");
        let inside = Change::offload(Some("/run/netns/app"), "eth0", "tx", false);
        assert_eq!(inside.command(), "ip netns exec app ethtool -K eth0 tx off");
        let by_process = Change::offload(Some("/proc/7/ns/net"), "eth0", "tx", false);
        assert_eq!(by_process.command(), "nsenter --net=/proc/7/ns/net ethtool -K eth0 tx off");
        let plain = Change::file("/proc/sys/net/ipv4/conf/eth0/rp_filter", 2);
        assert_eq!(plain.command(), "sysctl -w net.ipv4.conf.eth0.rp_filter=2");
        let dotted = Change::file("/proc/sys/net/ipv4/conf/eth0.7/rp_filter", 2);
        assert_eq!(dotted.command(), "sysctl -w net/ipv4/conf/eth0.7/rp_filter=2");
        assert_eq!(Change::file("/sys/x", 1).command(), "echo 1 > /sys/x");
    }

    #[test]
    fn only_settings_are_written() {
        for path in ["/etc/passwd", "/proc/sys/../../etc/passwd", "/proc/1/mem", "relative"] {
            let setting = Setting::File { path: path.into() };
            assert!(setting.write("0").unwrap_err().to_string().contains("no setting"), "{path}");
            assert!(setting.read().is_err());
        }
        let hostname = Setting::File { path: "/proc/sys/kernel/ostype".into() };
        assert_eq!(hostname.read().unwrap(), "Linux");
    }

    #[test]
    fn a_change_survives_json() {
        let change = Change::here(Setting::Queues { interface: "e".into(), channel: "combined".into() }, 4);
        let text = serde_json::to_string(&change).unwrap();
        assert_eq!(serde_json::from_str::<Change>(&text).unwrap(), change);
    }
}
