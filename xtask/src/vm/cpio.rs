//! Writes a cpio archive of the `newc` kind, which is what the kernel takes for an initramfs
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::io::{Result, Write};

/// Kind bits of a mode, as in inode(7).
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// An archive being written.
pub struct Writer<W: Write> {
    out: W,
    /// Bytes written, for padding.
    at: u64,
    inode: u32,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W) -> Self {
        Self { out, at: 0, inode: 1 }
    }

    /// A folder, mode 0755. Parents must come first.
    pub fn folder(&mut self, path: &str) -> Result<()> {
        self.entry(path, FOLDER | 0o755, &[])
    }

    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.entry(path, FILE | mode, bytes)
    }

    pub fn link(&mut self, path: &str, to: &str) -> Result<()> {
        self.entry(path, LINK | 0o777, to.as_bytes())
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Result<()> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush()
    }

    fn entry(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        let name = path.trim_start_matches('/');
        let length = u32::try_from(bytes.len()).map_err(|_| std::io::Error::other(format!("{path} is too long")))?;
        let links = if mode & FOLDER != 0 && mode & FILE == 0 { 2 } else { 1 };
        // inode, mode, owner, group, links, time, length, device (2), special device (2), length of the name with its 0, sum.
        let fields = [self.inode, mode, 0, 0, links, 0, length, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.inode += 1;
        let mut head = String::from("070701");
        for field in fields {
            head.push_str(&format!("{field:08x}"));
        }
        self.put(head.as_bytes())?;
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.pad()?;
        self.put(bytes)?;
        self.pad()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Names and contents end on multiples of 4.
    fn pad(&mut self) -> Result<()> {
        let rest = (self.at % 4) as usize;
        if rest > 0 { self.put(&[0; 4][rest..]) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn entries_are_aligned_and_the_trailer_ends_it() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.folder("/etc").unwrap();
        writer.file("/etc/x", 0o755, b"hello").unwrap();
        writer.link("/y", "etc/x").unwrap();
        writer.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 4);
        // Mode 0100755 and length 5 of the file.
        let head = text.find("etc/x\0").unwrap() - 110;
        assert_eq!(head % 4, 0);
        assert_eq!(&text[head + 14..head + 22], "000081ed");
        assert_eq!(&text[head + 54..head + 62], "00000005");
        assert!(text.trim_end_matches('\0').ends_with("TRAILER!!!"));
    }
}
