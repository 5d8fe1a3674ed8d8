//! `softdpu capture`: what the instance streams, written by the caller with the caller's rights.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::args::CaptureArgs;
use super::ask::ask;
use super::filter;
use crate::control::watch_client;
use crate::watch::WatchRequest;
use crate::watch::pcapng::{Blocks, Kind, lost};

pub fn run(args: &CaptureArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let request = WatchRequest {
        at: args.at.clone(),
        filter: filter::compile(&args.filter)?,
        snaplen: args.snaplen,
        count: args.count,
        seconds: args.seconds,
    };
    let socket = args.instance.path()?;
    let to_stdout = args.write == Path::new("-");
    if to_stdout && args.size.is_some() {
        bail!("-C starts new files: name one with -w");
    }
    let mut files = Files {
        path: args.write.clone(),
        most: args.size.map(|millions| millions.saturating_mul(1_000_000)),
        keep: args.files,
        ..Files::default()
    };
    let (mut blocks, mut packets, mut statistics) = (Blocks::default(), 0_u64, 0);
    ask(watch_client::watch(&socket, false, &request, |bytes| {
        blocks.push(bytes);
        while let Some((kind, block)) = blocks.next_block().map_err(anyhow::Error::msg)? {
            packets += u64::from(kind == Kind::Packet);
            statistics = if kind == Kind::Statistics { statistics.max(lost(&block)) } else { statistics };
            if to_stdout {
                out.write_all(&block)?;
            } else {
                files.write(kind, &block)?;
            }
        }
        if to_stdout {
            out.flush()?;
        } else {
            files.flush()?;
        }
        Ok(true)
    }))?;
    if blocks.is_torn() {
        bail!("the capture broke off");
    }
    eprintln!("{packets} packets written{}, {statistics} lost", if files.count > 1 { " to several files" } else { "" });
    Ok(true)
}

/// A capture file, or several one after the other.
#[derive(Debug, Default)]
struct Files {
    path: PathBuf,
    /// Most bytes of each.
    most: Option<u64>,
    /// Most files; then the oldest is written over.
    keep: Option<u32>,
    /// Files begun.
    count: u32,
    now: Option<BufWriter<File>>,
    written: u64,
    /// Section and interfaces: at the beginning of each file.
    head: Vec<u8>,
    /// The newest statistics of each interface: at the end of each file.
    tail: Vec<Vec<u8>>,
}

impl Files {
    fn write(&mut self, kind: Kind, block: &[u8]) -> anyhow::Result<()> {
        let full = self.most.is_some_and(|most| self.written + block.len() as u64 > most);
        match kind {
            Kind::Head => self.head.extend_from_slice(block),
            Kind::Statistics => {
                self.tail.retain(|other| other.get(8..12) != block.get(8..12));
                self.tail.push(block.to_vec());
            }
            Kind::Packet if full && self.written > self.head.len() as u64 => {
                let tail = self.tail.concat();
                self.put(&tail)?;
                self.flush()?;
                self.now = None;
            }
            Kind::Packet => {}
        }
        if self.now.is_none() {
            self.open()?;
            if kind != Kind::Head {
                let head = self.head.clone();
                self.put(&head)?;
            }
        }
        self.put(block)
    }

    fn open(&mut self) -> anyhow::Result<()> {
        let number = self.keep.map_or(self.count, |keep| self.count % keep.max(1));
        let mut path = self.path.clone().into_os_string();
        if number > 0 {
            path.push(number.to_string());
        }
        // What it holds was in clear on no wire, perhaps.
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        self.now = Some(BufWriter::new(file.with_context(|| format!("cannot write {}", Path::new(&path).display()))?));
        (self.count, self.written) = (self.count + 1, 0);
        Ok(())
    }

    fn put(&mut self, block: &[u8]) -> anyhow::Result<()> {
        self.written += block.len() as u64;
        match &mut self.now {
            Some(file) => file.write_all(block).context("cannot write the capture"),
            None => Ok(()),
        }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.now.as_mut().map_or(Ok(()), |file| file.flush().context("cannot write the capture"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_file_has_a_head_and_the_oldest_are_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pcapng");
        let mut files = Files { path: path.clone(), most: Some(30), keep: Some(2), ..Files::default() };
        files.write(Kind::Head, b"HEAD").unwrap();
        for packet in 0..5 {
            files.write(Kind::Packet, &[b'0' + packet; 12]).unwrap();
            files.write(Kind::Statistics, b"kindsizeFACE").unwrap();
        }
        files.flush().unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(files.count, 5);
        assert_eq!(read("x.pcapng"), "HEAD444444444444kindsizeFACE");
        assert_eq!(read("x.pcapng1"), "HEAD333333333333kindsizeFACEkindsizeFACE");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}
