//! Keying material from files: what only we can read, and nothing else.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;

use super::aead::{Cipher, KeyMaterial};
use super::secret::Secret;

/// More than any key file needs (hex text with white space); what is larger is some other file.
const MAX_FILE: usize = 1024;

/// Why a key file was refused. Never says anything of its content.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("cannot open key file {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot read key file {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("key file {path} is not a regular file")]
    NotAFile { path: PathBuf },
    #[error("key file {path} can be used by others (mode {mode:04o}); do: chmod 0600 {path}")]
    Mode { path: PathBuf, mode: u32 },
    #[error(
        "key file {path} belongs to uid {owner}, not to root or to uid {euid} that softdpu runs as; do: chown {euid} {path}"
    )]
    Owner { path: PathBuf, owner: u32, euid: u32 },
    #[error("key file {path} is larger than {MAX_FILE} bytes; that is not a key for {cipher}", cipher = .cipher.name())]
    TooLarge { path: PathBuf, cipher: Cipher },
    #[error(
        "key file {path} holds {found} bytes; {cipher} needs {} ({} of key, 4 of salt), as {} hex digits or raw; make one with: openssl rand -hex {} > {path}",
        .cipher.material_len(), .cipher.key_len(), 2 * .cipher.material_len(), .cipher.material_len()
    )]
    Size { path: PathBuf, cipher: Cipher, found: usize },
    #[error("key file {path} holds an odd number of hex digits ({digits}); {cipher} needs {}", 2 * .cipher.material_len())]
    OddHex { path: PathBuf, cipher: Cipher, digits: usize },
    #[error("key file {path} holds no WireGuard key; make one with: (umask 077; wg genkey > {path})")]
    NotWireGuard { path: PathBuf },
}

/// Reads the keying material of `cipher` from `path`.
///
/// The file is hex text (white space anywhere, `0x` in front allowed) or raw bytes of exactly
/// [`Cipher::material_len`]. It must be a regular file of root or the effective user with no right for group or others.
///
/// # Errors
/// See [`KeyFileError`]; each names the file and, where there is one, the remedy.
pub fn read(path: &Path, cipher: Cipher) -> Result<KeyMaterial, KeyFileError> {
    let (content, len) = read_private(path)?;
    if len > MAX_FILE {
        return Err(KeyFileError::TooLarge { path: path.into(), cipher });
    }
    parse(path, cipher, &content[..len])
}

/// Reads a WireGuard key, private or preshared, as `wg genkey` and `wg genpsk` write it: 32 bytes in base64.
///
/// # Errors
/// As [`read`]; and [`KeyFileError::NotWireGuard`].
pub fn read_wireguard(path: &Path) -> Result<Secret<32>, KeyFileError> {
    let (content, len) = read_private(path)?;
    let text = content.get(..len).unwrap_or_default().trim_ascii();
    let mut key = Secret::zeroed();
    match BASE64.decode_slice(text, key.expose_mut()) {
        Ok(32) => Ok(key),
        _ => Err(KeyFileError::NotWireGuard { path: path.into() }),
    }
}

fn read_private(path: &Path) -> Result<(Zeroizing<[u8; MAX_FILE + 1]>, usize), KeyFileError> {
    // Not blocking, so that a FIFO in the file's place is refused below rather than waited for.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(|source| KeyFileError::Open { path: path.into(), source })?;
    // The opened file is judged, not the path: nobody can swap it in between.
    let meta = file.metadata().map_err(|source| KeyFileError::Read { path: path.into(), source })?;
    check(path, &meta, effective_uid())?;
    read_bounded(&file).map_err(|source| KeyFileError::Read { path: path.into(), source })
}

fn effective_uid() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

fn check(path: &Path, meta: &Metadata, euid: u32) -> Result<(), KeyFileError> {
    if !meta.is_file() {
        return Err(KeyFileError::NotAFile { path: path.into() });
    }
    if meta.uid() != euid && meta.uid() != 0 {
        return Err(KeyFileError::Owner { path: path.into(), owner: meta.uid(), euid });
    }
    if meta.mode() & 0o077 != 0 {
        return Err(KeyFileError::Mode { path: path.into(), mode: meta.mode() & 0o7777 });
    }
    Ok(())
}

/// Into a buffer of fixed size: a growing one would leave copies behind that nobody zeroes.
fn read_bounded(mut file: &File) -> io::Result<(Zeroizing<[u8; MAX_FILE + 1]>, usize)> {
    let mut content = Zeroizing::new([0; MAX_FILE + 1]);
    let mut len = 0;
    while len < content.len() {
        match file.read(&mut content[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok((content, len))
}

fn parse(path: &Path, cipher: Cipher, content: &[u8]) -> Result<KeyMaterial, KeyFileError> {
    let text = content.trim_ascii();
    let text = text.strip_prefix(b"0x").or_else(|| text.strip_prefix(b"0X")).unwrap_or(text);
    let is_hex = !text.is_empty() && text.iter().all(|b| b.is_ascii_hexdigit() || b.is_ascii_whitespace());
    let mut bytes = Zeroizing::new([0_u8; MAX_FILE]);
    let found = if is_hex {
        let mut digits = 0;
        for b in text.iter().filter(|b| !b.is_ascii_whitespace()) {
            let digit = (*b as char).to_digit(16).unwrap_or(0) as u8;
            bytes[digits / 2] = bytes[digits / 2] << 4 | digit;
            digits += 1;
        }
        if digits % 2 != 0 {
            return Err(KeyFileError::OddHex { path: path.into(), cipher, digits });
        }
        digits / 2
    } else {
        bytes[..content.len()].copy_from_slice(content);
        content.len()
    };
    KeyMaterial::new(cipher, &bytes[..found]).ok_or(KeyFileError::Size { path: path.into(), cipher, found })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    const HEX: &str = "000102030405060708090a0b0c0d0e0f10111213";

    fn id(content: &[u8]) -> Result<super::super::aead::KeyId, KeyFileError> {
        parse(Path::new("k"), Cipher::Aes128Gcm, content).map(|m| m.id())
    }

    #[test]
    fn hex_in_all_its_spellings_and_raw_are_the_same_key() {
        let raw: Vec<u8> = (0..20).collect();
        let want = KeyMaterial::new(Cipher::Aes128Gcm, &raw).unwrap().id();
        let upper = HEX.to_uppercase();
        let spaced = format!("  0x{} {}\n{}\r\n", &HEX[..7], &HEX[7..20], &HEX[20..]);
        for content in [&raw[..], HEX.as_bytes(), upper.as_bytes(), spaced.as_bytes()] {
            assert_eq!(id(content).unwrap(), want);
        }
    }

    #[test]
    fn sizes_and_digits_are_refused_with_what_was_expected_and_no_content() {
        for content in [&b""[..], b"0x", b"deadbeef\n", &[7; 19], &[7; 21], &[0x61; 20], &HEX.as_bytes()[1..]] {
            let error = id(content).unwrap_err().to_string();
            assert!(error.contains("20") || error.contains("40"), "{error}");
            assert!(!error.contains("dead") && !error.contains("0102") && !error.contains("aaaa"), "{error}");
        }
        assert!(matches!(id(&HEX.as_bytes()[1..]), Err(KeyFileError::OddHex { digits: 39, .. })));
        assert!(matches!(id(&[7; 21]), Err(KeyFileError::Size { found: 21, .. })));
    }

    #[test]
    fn mode_must_keep_others_out() {
        for mode in [0o600, 0o400] {
            let (_dir, path) = file(HEX.as_bytes(), mode);
            read(&path, Cipher::Aes128Gcm).unwrap();
        }
        for mode in [0o640, 0o604, 0o644, 0o610, 0o660, 0o777] {
            let (_dir, path) = file(HEX.as_bytes(), mode);
            let error = read(&path, Cipher::Aes128Gcm).unwrap_err().to_string();
            assert!(error.contains(&format!("{mode:04o}")), "{error}");
            assert!(error.contains(&format!("chmod 0600 {}", path.display())), "{error}");
        }
    }

    #[test]
    fn a_stranger_s_file_is_refused() {
        let (_dir, path) = file(HEX.as_bytes(), 0o600);
        let meta = fs::metadata(&path).unwrap();
        // Seen by some other user than the file's owner; where the owner is root that is accepted.
        let stranger = check(&path, &meta, meta.uid() + 1);
        assert_eq!(stranger.is_ok(), meta.uid() == 0);
        if effective_uid() == 0 {
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            assert!(matches!(read(&path, Cipher::Aes128Gcm), Err(KeyFileError::Owner { owner: 65534, .. })));
        }
    }

    #[test]
    fn what_is_no_key_file_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(dir.path(), Cipher::Aes256Gcm), Err(KeyFileError::NotAFile { .. })));
        assert!(matches!(read(&dir.path().join("none"), Cipher::Aes256Gcm), Err(KeyFileError::Open { .. })));
        let fifo = dir.path().join("fifo");
        let name = std::ffi::CString::new(fifo.to_str().unwrap()).unwrap();
        // SAFETY: `name` is a NUL-terminated path that lives over the call.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        assert!(matches!(read(&fifo, Cipher::Aes256Gcm), Err(KeyFileError::NotAFile { .. })));
        let (_dir, large) = file(&[b'a'; 5000], 0o600);
        assert!(matches!(read(&large, Cipher::Aes256Gcm), Err(KeyFileError::TooLarge { .. })));
    }
}
