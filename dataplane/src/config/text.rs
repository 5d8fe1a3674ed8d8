//! Reads a file as text: bounded, and where it is no text, with the place.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use super::problem::{Code, Problem, Source};

/// The text of a file of at most `most` bytes. `what`: "policy", with its article in front.
///
/// # Errors
/// What is wrong with it, and what there is of its text.
pub fn read(path: &Path, most: usize, what: &str) -> Result<String, Box<(Source, Problem)>> {
    let name = path.display().to_string();
    let failed = |error: &std::io::Error| {
        let help = match error.kind() {
            ErrorKind::NotFound => "check the path: nothing is there".to_owned(),
            ErrorKind::PermissionDenied => "run as a user who may read it".to_owned(),
            ErrorKind::IsADirectory => format!("name a file: {what} is one file, not a folder"),
            _ if error.raw_os_error() == Some(libc::ELOOP) => {
                "it is a link that leads to itself: remove it, and put the file there".to_owned()
            }
            _ => format!("{what} must be a readable file"),
        };
        let source = Source { name: name.clone(), text: String::new() };
        Box::new((source, Problem::error(Code::Unreadable, 0..0, format!("cannot read {name}: {error}"), help)))
    };
    // Else a short file takes several reads.
    let mut bytes = Vec::with_capacity(4096);
    let file = File::open(path).map_err(|error| failed(&error))?;
    // No more than that, whatever is behind the path.
    file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    if bytes.len() > most {
        let message = format!("{name} is longer than {most} bytes");
        let source = Source { name, text: String::new() };
        let help = format!("{what} has at most {most}");
        return Err(Box::new((source, Problem::error(Code::Unreadable, 0..0, message, help))));
    }
    bytes.shrink_to_fit();
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let byte = error.as_bytes().get(at).copied().unwrap_or(0);
        let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
        let message = format!("{name} is not UTF-8 text: byte {at} is {byte:#04x}");
        let help = format!("{what} is UTF-8 text: iconv -f latin1 -t utf-8, if it was written so");
        let problem = Problem::error(Code::Unreadable, at..at, message, help).label("no character");
        Box::new((Source { name, text }, problem))
    })
}
