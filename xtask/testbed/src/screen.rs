//! A program on a terminal of its own, and what can be read there. The terminal is that of `script` (util-linux); of its language
//! this knows what a full-screen program says: where the cursor goes, what is cleared, what is printed.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// What a terminal shows.
#[derive(Debug, Default)]
pub struct Grid {
    lines: Vec<Vec<char>>,
    row: usize,
    column: usize,
    /// An escape sequence that is not over.
    pending: Option<String>,
    /// Bytes of a character that is not over.
    bytes: Vec<u8>,
    /// The program has the screen to itself.
    pub alternate: bool,
    pub cursor_hidden: bool,
}

impl Grid {
    pub fn new(width: usize, height: usize) -> Self {
        Self { lines: vec![vec![' '; width]; height], ..Self::default() }
    }

    /// Takes what the program wrote.
    pub fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.bytes.push(*byte);
            match std::str::from_utf8(&self.bytes) {
                Ok(text) => {
                    let c = text.chars().next().unwrap_or(' ');
                    self.bytes.clear();
                    self.put(c);
                }
                Err(error) if error.error_len().is_some() => self.bytes.clear(),
                Err(_) => {}
            }
        }
    }

    fn put(&mut self, c: char) {
        if let Some(sequence) = &mut self.pending {
            sequence.push(c);
            let csi = sequence.starts_with('[');
            if (csi && sequence.len() > 1 && ('@'..='~').contains(&c)) || (!csi && c.is_ascii_alphanumeric()) {
                let sequence = self.pending.take().unwrap_or_default();
                self.act(&sequence);
            }
            return;
        }
        match c {
            '\x1b' => self.pending = Some(String::new()),
            '\r' => self.column = 0,
            '\n' => self.row += 1,
            c if c.is_control() => {}
            c => {
                if let Some(cell) = self.lines.get_mut(self.row).and_then(|line| line.get_mut(self.column)) {
                    *cell = c;
                }
                self.column += 1;
            }
        }
    }

    fn act(&mut self, sequence: &str) {
        let Some(csi) = sequence.strip_prefix('[') else { return };
        let (arguments, what) = csi.split_at(csi.len() - 1);
        let number = |at: usize| arguments.split(';').nth(at).and_then(|n| n.parse::<usize>().ok());
        match what {
            "H" => (self.row, self.column) = (number(0).unwrap_or(1) - 1, number(1).unwrap_or(1) - 1),
            "J" => self.lines.iter_mut().for_each(|line| line.fill(' ')),
            "h" | "l" if arguments == "?1049" => self.alternate = what == "h",
            "h" | "l" if arguments == "?25" => self.cursor_hidden = what == "l",
            _ => {}
        }
    }

    pub fn text(&self) -> String {
        let line = |line: &Vec<char>| line.iter().collect::<String>().trim_end().to_owned() + "\n";
        self.lines.iter().map(line).collect()
    }
}

/// A running program.
#[derive(Debug)]
pub struct Screen {
    script: Child,
    keys: ChildStdin,
    grid: Arc<Mutex<Grid>>,
    id: PathBuf,
}

impl Screen {
    /// Runs `words` (no quotes in them) on a terminal of this size. `folder` takes the file with its process id.
    ///
    /// # Errors
    /// There is no `script`.
    pub fn start(words: &[&str], (width, height): (usize, usize), folder: &Path) -> Result<Self> {
        let id = folder.join("screen.pid");
        let line = format!("stty cols {width} rows {height}; echo $$ > {}; exec {}", id.display(), words.join(" "));
        let mut script = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env("TERM", "xterm-256color")
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start script")?;
        let keys = script.stdin.take().context("no way to type")?;
        let mut out = script.stdout.take().context("nothing to read")?;
        let grid = Arc::new(Mutex::new(Grid::new(width, height)));
        let shared = grid.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = out.read(&mut buffer) {
                shared.lock().unwrap_or_else(PoisonError::into_inner).take(&buffer[..n]);
            }
        });
        Ok(Self { script, keys, grid, id })
    }

    /// # Errors
    /// It ended.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        self.keys.write_all(keys.as_bytes())?;
        Ok(self.keys.flush()?)
    }

    /// What is on the screen now.
    pub fn text(&self) -> String {
        self.grid.lock().unwrap_or_else(PoisonError::into_inner).text()
    }

    /// Whether the program has taken the terminal over: the other screen, no cursor.
    pub fn taken_over(&self) -> (bool, bool) {
        let grid = self.grid.lock().unwrap_or_else(PoisonError::into_inner);
        (grid.alternate, grid.cursor_hidden)
    }

    /// Waits until the screen says so; gives what it shows then.
    ///
    /// # Errors
    /// It did not within `limit`; the message has the screen.
    pub fn until(&self, limit: Duration, ready: impl Fn(&str) -> bool) -> Result<String> {
        let end = Instant::now() + limit;
        loop {
            let text = self.text();
            if ready(&text) {
                return Ok(text);
            }
            if Instant::now() >= end {
                bail!("the screen is not as awaited after {limit:?}:\n{text}");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends the program a signal.
    ///
    /// # Errors
    /// It has not said what its id is.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let id: i32 = std::fs::read_to_string(&self.id)?.trim().parse()?;
        // SAFETY: kill takes numbers only.
        unsafe { libc::kill(id, signal) };
        Ok(())
    }

    /// Takes its terminal away, and says whether it ended within `limit`.
    ///
    /// # Errors
    /// It has not said what its id is.
    pub fn hang_up(mut self, limit: Duration) -> Result<bool> {
        let process = format!("/proc/{}", std::fs::read_to_string(&self.id)?.trim());
        self.script.kill()?;
        let end = Instant::now() + limit;
        while Path::new(&process).exists() && Instant::now() < end {
            thread::sleep(Duration::from_millis(10));
        }
        Ok(!Path::new(&process).exists())
    }

    /// Waits for its end; `script` passes its exit code on.
    ///
    /// # Errors
    /// It still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.script.try_wait()? {
                // What it wrote last is read by then.
                thread::sleep(Duration::from_millis(100));
                return Ok(status);
            }
            if Instant::now() >= end {
                bail!("it still runs after {limit:?}:\n{}", self.text());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_shows_what_was_written() {
        let mut grid = Grid::new(6, 2);
        grid.take(
            b"\x1b[?1049h\x1b[?25l\x1b[2J\x1b[2;3H\x1b[38;5;1mab\x1b[0m\x1b[1;1H\xe2\x96\x88 way beyond the edge",
        );
        assert_eq!(grid.text(), "█ way\n  ab\n");
        assert!(grid.alternate && grid.cursor_hidden);
        grid.take(b"\x1b[?25h\x1b[?1049l");
        assert!(!grid.alternate && !grid.cursor_hidden);
    }
}
