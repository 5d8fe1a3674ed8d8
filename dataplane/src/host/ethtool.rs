//! What a device is and how it is set, by ethtool's ioctls, which follow the thread's network namespace. Read and written
//! here; [`super::nic`] has the little that a running instance needs.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::inventory::{DeviceRings, Queues, Rss};
use super::nic;

// include/uapi/linux/ethtool.h
const GDRVINFO: u32 = 0x03;
const GRINGPARAM: u32 = 0x10;
const SRINGPARAM: u32 = 0x11;
const GSTRINGS: u32 = 0x1b;
const GFLAGS: u32 = 0x25;
const SFLAGS: u32 = 0x26;
const GSSET_INFO: u32 = 0x37;
const GFEATURES: u32 = 0x3a;
const SFEATURES: u32 = 0x3b;
const GCHANNELS: u32 = 0x3c;
const SCHANNELS: u32 = 0x3d;
const GRSSH: u32 = 0x46;
const GLINKSETTINGS: u32 = 0x4c;
const SS_FEATURES: u32 = 4;
/// Bytes of a name in a set of strings.
const NAME: usize = 32;
/// Far more features than there are.
const MAX_FEATURES: usize = 1024;
const SPEED_UNKNOWN: u32 = u32::MAX;

/// An offload that has commands of its own: ethtool's short name, the command that reads it and the one that sets it.
const SINGLE: [(&str, u32, u32); 5] =
    [("rx", 0x14, 0x15), ("tx", 0x16, 0x17), ("sg", 0x18, 0x19), ("gso", 0x23, 0x24), ("gro", 0x2b, 0x2c)];
/// All of TCP's segmentation: the kernel's features whose names begin so. (The old command for it leaves the newer ones on.)
const TSO: (&str, &str) = ("tso", "tx-tcp");
/// Offloads that share a word of flags.
const FLAGS: [(&str, u32); 5] =
    [("txvlan", 1 << 7), ("rxvlan", 1 << 8), ("lro", 1 << 15), ("ntuple", 1 << 27), ("rxhash", 1 << 28)];

/// A socket to ask by, in the namespace of the thread that opened it.
pub struct Ethtool {
    socket: OwnedFd,
}

/// `struct ethtool_drvinfo`, as text.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Driver {
    pub name: String,
    pub version: String,
    pub firmware: String,
    pub bus: String,
}

/// Which of the counts `ethtool -L` sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Rx,
    Tx,
    Combined,
}

impl Channel {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rx => "rx",
            Self::Tx => "tx",
            Self::Combined => "combined",
        }
    }

    /// Place among the four counts (rx, tx, other, combined).
    const fn place(self) -> usize {
        match self {
            Self::Rx => 0,
            Self::Tx => 1,
            Self::Combined => 3,
        }
    }
}

/// `struct ethtool_channels`: four maxima, four counts (rx, tx, other, combined).
#[repr(C)]
#[derive(Default)]
struct Channels {
    cmd: u32,
    max: [u32; 4],
    count: [u32; 4],
}

/// `struct ethtool_ringparam`: maxima and counts of rx, mini, jumbo, tx.
#[repr(C)]
#[derive(Default)]
struct RingParam {
    cmd: u32,
    max: [u32; 4],
    count: [u32; 4],
}

impl Ethtool {
    /// # Errors
    /// No socket can be made.
    pub fn open() -> anyhow::Result<Self> {
        Ok(Self { socket: nic::socket()? })
    }

    fn call<T>(&self, interface: &str, data: &mut T) -> io::Result<()> {
        nic::ethtool(&self.socket, interface, std::ptr::from_mut(data).cast())
    }

    /// # Errors
    /// The device does not say.
    pub fn driver(&self, interface: &str) -> io::Result<Driver> {
        #[repr(C)]
        struct DrvInfo {
            cmd: u32,
            texts: [[u8; 32]; 4],
            rest: [u8; 64],
        }
        let mut info = DrvInfo { cmd: GDRVINFO, texts: [[0; 32]; 4], rest: [0; 64] };
        self.call(interface, &mut info)?;
        let [name, version, firmware, bus] = info.texts.map(|text| {
            let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
            String::from_utf8_lossy(&text[..end]).into_owned()
        });
        Ok(Driver { name, version, firmware, bus })
    }

    /// # Errors
    /// The device has no settable queues.
    pub fn queues(&self, interface: &str) -> io::Result<Queues> {
        let mut c = Channels { cmd: GCHANNELS, ..Channels::default() };
        self.call(interface, &mut c)?;
        Ok(Queues {
            receive: (c.count[0] + c.count[3]).max(1),
            rx: c.count[0],
            tx: c.count[1],
            combined: c.count[3],
            max_rx: c.max[0],
            max_tx: c.max[1],
            max_combined: c.max[3],
        })
    }

    /// # Errors
    /// The device refuses, or has no settable queues.
    pub fn set_queues(&self, interface: &str, channel: Channel, count: u32) -> io::Result<()> {
        let mut c = Channels { cmd: GCHANNELS, ..Channels::default() };
        self.call(interface, &mut c)?;
        c.cmd = SCHANNELS;
        c.count[channel.place()] = count;
        self.call(interface, &mut c)
    }

    /// # Errors
    /// The device has no rings.
    pub fn rings(&self, interface: &str) -> io::Result<DeviceRings> {
        let mut r = RingParam { cmd: GRINGPARAM, ..RingParam::default() };
        self.call(interface, &mut r)?;
        Ok(DeviceRings { rx: r.count[0], tx: r.count[3], max_rx: r.max[0], max_tx: r.max[3] })
    }

    /// Slots of the receive ring.
    ///
    /// # Errors
    /// The device refuses, or has no rings.
    pub fn set_rx_ring(&self, interface: &str, slots: u32) -> io::Result<()> {
        let mut r = RingParam { cmd: GRINGPARAM, ..RingParam::default() };
        self.call(interface, &mut r)?;
        r.cmd = SRINGPARAM;
        r.count[0] = slots;
        self.call(interface, &mut r)
    }

    /// All offloads that the device knows, by ethtool's short name.
    pub fn offloads(&self, interface: &str) -> BTreeMap<String, bool> {
        let single = SINGLE.iter().filter_map(|(name, get, _)| {
            let value = self.value(interface, *get).ok()?;
            Some(((*name).to_owned(), value != 0))
        });
        let mut all: BTreeMap<String, bool> = single.collect();
        if let Ok(on) = self.any_feature(interface, TSO.1) {
            all.insert(TSO.0.to_owned(), on);
        }
        if let Ok(flags) = self.value(interface, GFLAGS) {
            all.extend(FLAGS.iter().map(|(name, bit)| ((*name).to_owned(), flags & bit != 0)));
        }
        all
    }

    /// Switches an offload, and makes sure that it was.
    ///
    /// # Errors
    /// No such offload, or the device keeps it as it is.
    pub fn set_offload(&self, interface: &str, name: &str, on: bool) -> io::Result<()> {
        if let Some((_, get, set)) = SINGLE.iter().find(|(n, ..)| *n == name) {
            self.set_value(interface, *set, u32::from(on))?;
            return settled((self.value(interface, *get)? != 0) == on);
        }
        if name == TSO.0 {
            self.set_features(interface, TSO.1, on)?;
            return settled(self.any_feature(interface, TSO.1)? == on);
        }
        let unknown = || io::Error::from(io::ErrorKind::InvalidInput);
        let (_, bit) = FLAGS.iter().find(|(n, _)| *n == name).ok_or_else(unknown)?;
        let flags = self.value(interface, GFLAGS)?;
        self.set_value(interface, SFLAGS, if on { flags | bit } else { flags & !bit })?;
        settled((self.value(interface, GFLAGS)? & bit != 0) == on)
    }

    /// Places of the features whose names begin with `prefix`, and how many features there are.
    fn features(&self, interface: &str, prefix: &str) -> io::Result<(Vec<usize>, usize)> {
        // `struct ethtool_sset_info`: command, reserved, mask of sets in 64 bits, then a length per set asked for.
        let mut info = [GSSET_INFO, 0, 0, 0, 0];
        let mask = (1u64 << SS_FEATURES).to_ne_bytes();
        let (low, high) = mask.split_at(4);
        info[2] = u32::from_ne_bytes([low[0], low[1], low[2], low[3]]);
        info[3] = u32::from_ne_bytes([high[0], high[1], high[2], high[3]]);
        self.call(interface, &mut info)?;
        let count = (info[4] as usize).min(MAX_FEATURES);
        // `struct ethtool_gstrings`: command, set, length, names.
        let mut names = vec![0u32; 3 + count * NAME / 4];
        (names[0], names[1], names[2]) = (GSTRINGS, SS_FEATURES, count as u32);
        // The buffer has room for as many names as the first answer announced.
        nic::ethtool(&self.socket, interface, names.as_mut_ptr().cast())?;
        let bytes: Vec<u8> = names[3..].iter().flat_map(|w| w.to_ne_bytes()).collect();
        let places = bytes.chunks_exact(NAME).enumerate().filter(|(_, name)| name.starts_with(prefix.as_bytes()));
        Ok((places.map(|(place, _)| place).collect(), count))
    }

    /// `struct ethtool_gfeatures`: per 32 features the words available, requested, active, never changed.
    fn blocks(&self, interface: &str, count: usize) -> io::Result<Vec<[u32; 4]>> {
        let blocks = count.div_ceil(32);
        let mut words = vec![0u32; 2 + blocks * 4];
        (words[0], words[1]) = (GFEATURES, blocks as u32);
        // The buffer has room for as many blocks as it says.
        nic::ethtool(&self.socket, interface, words.as_mut_ptr().cast())?;
        Ok(words[2..].chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]).collect())
    }

    /// Whether any feature whose name begins with `prefix` is active. An error where the device has none.
    fn any_feature(&self, interface: &str, prefix: &str) -> io::Result<bool> {
        let (places, count) = self.features(interface, prefix)?;
        let blocks = self.blocks(interface, count)?;
        Ok(places.iter().any(|p| blocks.get(p / 32).is_some_and(|b| b[2] >> (p % 32) & 1 == 1)))
    }

    /// Switches all features whose names begin with `prefix`, as far as the device lets them be.
    fn set_features(&self, interface: &str, prefix: &str, on: bool) -> io::Result<()> {
        let (places, count) = self.features(interface, prefix)?;
        let blocks = self.blocks(interface, count)?;
        // `struct ethtool_sfeatures`: per 32 features the words valid and requested.
        let mut words = vec![0u32; 2 + blocks.len() * 2];
        (words[0], words[1]) = (SFEATURES, blocks.len() as u32);
        for place in places {
            let (block, bit) = (place / 32, 1 << (place % 32));
            if blocks.get(block).is_some_and(|b| b[0] & bit != 0 && b[3] & bit == 0) {
                words[2 + block * 2] |= bit;
                words[3 + block * 2] |= if on { bit } else { 0 };
            }
        }
        nic::ethtool(&self.socket, interface, words.as_mut_ptr().cast())
    }

    /// `struct ethtool_value`.
    fn value(&self, interface: &str, command: u32) -> io::Result<u32> {
        let mut value = [command, 0];
        self.call(interface, &mut value)?;
        Ok(value[1])
    }

    fn set_value(&self, interface: &str, command: u32, value: u32) -> io::Result<()> {
        self.call(interface, &mut [command, value])
    }

    /// # Errors
    /// The device does not spread packets, or does not say how.
    pub fn rss(&self, interface: &str) -> io::Result<Rss> {
        // `struct ethtool_rxfh`: command, context, slots of the table, bytes of the key, function and padding, then both.
        const HEAD: usize = 6;
        let mut head = [GRSSH, 0, 0, 0, 0, 0];
        self.call(interface, &mut head)?;
        let (slots, key_bytes) = (head[2].min(1 << 16) as usize, head[3].min(1024) as usize);
        let mut whole = vec![0u32; HEAD + slots + key_bytes.div_ceil(4)];
        (whole[0], whole[2], whole[3]) = (GRSSH, slots as u32, key_bytes as u32);
        // The buffer has room for what the first answer announced, which is all that the kernel writes.
        nic::ethtool(&self.socket, interface, whole.as_mut_ptr().cast())?;
        let key: Vec<u8> = whole[HEAD + slots..].iter().flat_map(|w| w.to_ne_bytes()).take(key_bytes).collect();
        Ok(Rss {
            key_bytes: key_bytes as u32,
            symmetric_key: key.len() >= 4 && key.chunks_exact(2).all(|pair| pair == &key[..2]),
            indirection: whole[HEAD..HEAD + slots].to_vec(),
        })
    }

    /// Megabits per second, where the link is up and says.
    pub fn speed(&self, interface: &str) -> Option<u32> {
        // `struct ethtool_link_settings`: the first call is refused with the number of words that the masks need, negative.
        const WORDS: usize = 12 + 3 * 127;
        let mut settings = [0u32; WORDS];
        settings[0] = GLINKSETTINGS;
        self.call(interface, &mut settings).ok()?;
        let words = (settings[3].to_ne_bytes()[3] as i8).checked_neg().filter(|n| *n > 0)?;
        settings = [0u32; WORDS];
        settings[0] = GLINKSETTINGS;
        settings[3] = u32::from_ne_bytes([0, 0, 0, words as u8]);
        self.call(interface, &mut settings).ok()?;
        Some(settings[1]).filter(|speed| *speed != SPEED_UNKNOWN && *speed != 0 && *speed != u32::from(u16::MAX))
    }

    /// Sets the MTU.
    ///
    /// # Errors
    /// The kernel refuses: too large for the device or for the XDP program on it.
    pub fn set_mtu(&self, interface: &str, mtu: u32) -> io::Result<()> {
        // SAFETY: all-zero is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(interface.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_mtu = mtu as libc::c_int;
        // SAFETY: a whole ifreq with a terminated name, alive across the call.
        let done = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCSIFMTU as _, &raw mut request) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn settled(done: bool) -> io::Result<()> {
    if done { Ok(()) } else { Err(io::Error::other("the device keeps it as it is")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn loopback_answers_what_it_knows() {
        let ethtool = Ethtool::open().unwrap();
        let offloads = ethtool.offloads("lo");
        assert!(offloads.contains_key("gro") && offloads.contains_key("lro"), "{offloads:?}");
        assert!(ethtool.queues("lo").is_err() && ethtool.rss("lo").is_err() && ethtool.speed("lo").is_none());
        assert!(ethtool.set_offload("lo", "nonsense", true).is_err());
        assert!(ethtool.offloads("no-such-if0").is_empty());
    }
}
