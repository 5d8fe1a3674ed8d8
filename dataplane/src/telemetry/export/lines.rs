//! Lines on their way into a file: written together, counted each, and never left in halves.

use std::fs::File;
use std::io::{self, ErrorKind, Write};

/// Bytes that wait before they are written without being asked for.
const ROOM: usize = 64 * 1024;

/// Where lines go.
pub trait Target: Write {
    /// Takes the last bytes back.
    ///
    /// # Errors
    /// It cannot: a pipe, say.
    fn take_back(&mut self, bytes: u64) -> io::Result<()>;
}

impl Target for File {
    fn take_back(&mut self, bytes: u64) -> io::Result<()> {
        let there = self.metadata()?;
        match there.len().checked_sub(bytes).filter(|_| there.is_file()) {
            Some(rest) => self.set_len(rest),
            None => Err(ErrorKind::Unsupported.into()),
        }
    }
}

/// Whole lines that wait.
#[derive(Debug)]
pub struct Lines<T> {
    to: T,
    waiting: Vec<u8>,
    /// The last line stands there in part, and could not be taken back.
    torn: bool,
}

impl<T: Target> Lines<T> {
    pub fn new(to: T) -> Self {
        Self { to, waiting: Vec::with_capacity(ROOM + 4096), torn: false }
    }

    /// Adds the line that `write` makes, with its end. Returns how many lines were lost by writing what waited.
    pub fn add(&mut self, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> u64 {
        let before = self.waiting.len();
        if write(&mut self.waiting).is_err() {
            self.waiting.truncate(before);
            return 1;
        }
        if self.waiting.len() >= ROOM { self.flush() } else { 0 }
    }

    /// Writes what waits. Returns how many of the lines could not be: they are given up, since the next ones are coming.
    pub fn flush(&mut self) -> u64 {
        if self.waiting.is_empty() {
            return 0;
        }
        if self.torn {
            match self.to.write(b"\n") {
                Ok(1) => self.torn = false,
                _ => return self.give_up(0),
            }
        }
        let mut done = 0;
        while done < self.waiting.len() {
            match self.to.write(&self.waiting[done..]) {
                Ok(0) => break,
                Ok(written) => done += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if done == self.waiting.len() {
            self.waiting.clear();
            return 0;
        }
        let whole = self.waiting[..done].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if done > whole {
            self.torn = self.to.take_back((done - whole) as u64).is_err();
        }
        self.give_up(whole)
    }

    fn give_up(&mut self, from: usize) -> u64 {
        let lost = self.waiting[from..].iter().filter(|byte| **byte == b'\n').count();
        self.waiting.clear();
        lost as u64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Takes this many bytes, then none.
    struct Disk {
        held: Vec<u8>,
        room: usize,
        is_file: bool,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let fits = bytes.len().min(self.room - self.held.len()).min(7);
            if fits == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            self.held.extend_from_slice(&bytes[..fits]);
            Ok(fits)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Target for Disk {
        fn take_back(&mut self, bytes: u64) -> io::Result<()> {
            if !self.is_file {
                return Err(ErrorKind::Unsupported.into());
            }
            self.held.truncate(self.held.len() - bytes as usize);
            Ok(())
        }
    }

    fn line(lines: &mut Lines<Disk>, n: usize) {
        assert_eq!(lines.add(|to| writeln!(to, "line {n}")), 0);
    }

    #[test]
    fn a_full_disk_has_whole_lines_and_each_lost_one_is_counted() {
        for room in 0..40 {
            let mut lines = Lines::new(Disk { held: Vec::new(), room, is_file: true });
            (0..5).for_each(|n| line(&mut lines, n));
            assert_eq!(lines.flush(), 5 - (room as u64 / 7).min(5));
            assert_eq!(lines.to.held.len(), room / 7 * 7 - room.saturating_sub(35) / 7 * 7);
            lines.to.room = 1000;
            line(&mut lines, 9);
            assert_eq!(lines.flush(), 0);
            assert!(lines.to.held.ends_with(b"\nline 9\n") || lines.to.held == b"line 9\n");
        }
    }

    #[test]
    fn what_cannot_be_taken_back_is_a_line_of_its_own() {
        let mut lines = Lines::new(Disk { held: Vec::new(), room: 10, is_file: false });
        (0..3).for_each(|n| line(&mut lines, n));
        assert_eq!(lines.flush(), 2);
        line(&mut lines, 3);
        assert_eq!(lines.flush(), 1, "not even the end of the half one has room");
        lines.to.room = 100;
        line(&mut lines, 4);
        assert_eq!(lines.flush(), 0);
        assert_eq!(lines.to.held, b"line 0\nlin\nline 4\n");
    }
}
