//! Keying material from files: what only we can read, and nothing else.
//!
//! A file is named by its path, or as `credential:NAME`: the credential NAME that systemd gives the unit (`LoadCredential=`,
//! `LoadCredentialEncrypted=`) in `$CREDENTIALS_DIRECTORY`. Those are mode 0400 or 0440 in a directory that only the unit
//! sees, so a group that may read is accepted there, and nowhere else.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::aead::{Cipher, KeyMaterial};
use super::secret::{Secret, scrub_stack};

/// More than any key file needs (hex text with white space); what is larger is some other file.
const MAX_FILE: usize = 1024;
/// In front of the name of a credential.
const CREDENTIAL: &str = "credential:";

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
    #[error("key file {path} is no WireGuard key: 44 characters of base64; make one with: wg genkey > {path}")]
    WireGuard { path: PathBuf },
    #[error(
        "{name} is asked for, but there is no $CREDENTIALS_DIRECTORY; set LoadCredential= in the unit, and start it by systemd"
    )]
    NoCredentials { name: String },
}

/// Where a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub path: PathBuf,
    /// Whether systemd made it for us.
    pub credential: bool,
}

impl Place {
    /// Mode bits that nobody may have.
    pub fn forbidden(&self) -> u32 {
        if self.credential { 0o037 } else { 0o077 }
    }
}

/// What `path`, as an operator wrote it or joined to the policy's folder, stands for.
///
/// # Errors
/// [`KeyFileError::NoCredentials`].
pub fn locate(path: &Path) -> Result<Place, KeyFileError> {
    locate_in(path, std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from).as_deref())
}

fn locate_in(path: &Path, credentials: Option<&Path>) -> Result<Place, KeyFileError> {
    // The last part alone, so a name cannot lead out of the directory.
    let name = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix(CREDENTIAL));
    match (name, credentials) {
        (Some(name), None) => Err(KeyFileError::NoCredentials { name: format!("{CREDENTIAL}{name}") }),
        (Some(name), Some(directory)) => Ok(Place { path: directory.join(name), credential: true }),
        (None, directory) => {
            let inside = directory.is_some_and(|d| path.parent() == Some(d));
            Ok(Place { path: path.into(), credential: inside })
        }
    }
}

/// Reads the keying material of `cipher` from `path`.
///
/// The file is hex text (white space anywhere, `0x` in front allowed) or raw bytes of exactly
/// [`Cipher::material_len`]. It must be a regular file of root or the effective user with no right for group or others.
///
/// # Errors
/// See [`KeyFileError`]; each names the file and, where there is one, the remedy.
pub fn read(path: &Path, cipher: Cipher) -> Result<KeyMaterial, KeyFileError> {
    let (path, content, len) = open(path)?;
    if len > MAX_FILE {
        return Err(KeyFileError::TooLarge { path, cipher });
    }
    parse(&path, cipher, &content[..len])
}

/// Reads a private or preshared key as `wg genkey` and `wg genpsk` write them: base64 of 32 bytes. The same rules hold for
/// the file as for [`read`].
///
/// # Errors
/// See [`KeyFileError`].
pub fn read_wireguard(path: &Path) -> Result<Secret<32>, KeyFileError> {
    let (path, content, len) = open(path)?;
    let key = base64_key(content[..len].trim_ascii());
    scrub_stack();
    key.ok_or(KeyFileError::WireGuard { path })
}

/// The content of a file that may hold a key, at most a byte more than [`MAX_FILE`], and where it was.
fn open(path: &Path) -> Result<(PathBuf, Zeroizing<[u8; MAX_FILE + 1]>, usize), KeyFileError> {
    let place = locate(path)?;
    let path = place.path.clone();
    // Not blocking, so that a FIFO in the file's place is refused below rather than waited for.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(&path)
        .map_err(|source| KeyFileError::Open { path: path.clone(), source })?;
    // The opened file is judged, not the path: nobody can swap it in between.
    let meta = file.metadata().map_err(|source| KeyFileError::Read { path: path.clone(), source })?;
    check(&place, &meta, effective_uid())?;
    let (content, len) = read_bounded(&file).map_err(|source| KeyFileError::Read { path: path.clone(), source })?;
    Ok((path, content, len))
}

/// 32 bytes of base64 (RFC 4648 §4), without a branch or an address that depends on them.
fn base64_key(text: &[u8]) -> Option<Secret<32>> {
    let digits: &[u8; 43] = text.strip_suffix(b"=")?.try_into().ok()?;
    let mut key = Secret::<32>::zeroed();
    let (mut bits, mut held, mut wrong, mut at) = (0_u32, 0, 0, 0);
    for digit in digits {
        let value = base64_digit(*digit);
        wrong |= value;
        bits = bits << 6 | (value as u32 & 0x3F);
        held += 6;
        if held >= 8 {
            held -= 8;
            key.expose_mut()[at] = (bits >> held) as u8;
            at += 1;
        }
    }
    // 43 digits are two bits more than 32 bytes; in what `wg` writes they are zero.
    (wrong >= 0 && bits & 0b11 == 0).then_some(key)
}

/// 0 to 63; negative for what is no digit.
fn base64_digit(c: u8) -> i32 {
    let c = i32::from(c);
    // All ones where `c` is within: both differences are negative then, and only then.
    let within = |low: u8, high: u8| ((i32::from(low) - 1 - c) & (c - i32::from(high) - 1)) >> 31;
    let one = |low: u8, high: u8, first: i32| within(low, high) & (c - i32::from(low) + first + 1);
    one(b'A', b'Z', 0) + one(b'a', b'z', 26) + one(b'0', b'9', 52) + one(b'+', b'+', 62) + one(b'/', b'/', 63) - 1
}

fn effective_uid() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

fn check(place: &Place, meta: &Metadata, euid: u32) -> Result<(), KeyFileError> {
    let path = &place.path;
    if !meta.is_file() {
        return Err(KeyFileError::NotAFile { path: path.into() });
    }
    if meta.uid() != euid && meta.uid() != 0 {
        return Err(KeyFileError::Owner { path: path.into(), owner: meta.uid(), euid });
    }
    if meta.mode() & place.forbidden() != 0 {
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
    fn credentials_are_found_by_name_and_may_be_read_by_their_group() {
        let (dir, path) = file(HEX.as_bytes(), 0o440);
        let there = Some(dir.path());
        let place = locate_in(Path::new("/etc/softdpu/credential:key"), there).unwrap();
        assert_eq!(place, Place { path: path.clone(), credential: true });
        assert_eq!(locate_in(Path::new("credential:key"), there).unwrap(), place);
        assert_eq!(locate_in(&path, there).unwrap(), place);
        let meta = fs::metadata(&path).unwrap();
        check(&place, &meta, effective_uid()).unwrap();
        assert!(matches!(
            check(&locate_in(&path, None).unwrap(), &meta, effective_uid()),
            Err(KeyFileError::Mode { .. })
        ));
        for mode in [0o444, 0o460, 0o450] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let refused = check(&place, &fs::metadata(&path).unwrap(), effective_uid());
            assert!(matches!(refused, Err(KeyFileError::Mode { .. })), "{mode:o}");
        }
        let error = locate_in(Path::new("credential:key"), None).unwrap_err().to_string();
        assert!(error.contains("credential:key") && error.contains("LoadCredential="), "{error}");
        // Below the directory is not in it, and nothing leads out of it.
        assert!(!locate_in(&dir.path().join("x/key"), there).unwrap().credential);
        assert!(!locate_in(&dir.path().join("../key"), there).unwrap().credential);
    }

    #[test]
    fn wireguard_keys_are_read_as_wg_writes_them() {
        let key: Vec<u8> = (0..32).map(|i| (i * 37 + 250) as u8).collect();
        let alphabet: Vec<u8> = (b'A'..=b'Z').chain(b'a'..=b'z').chain(b'0'..=b'9').chain(*b"+/").collect();
        for (value, digit) in alphabet.iter().enumerate() {
            assert_eq!(base64_digit(*digit), value as i32);
        }
        assert_eq!((0..=255).filter(|c| base64_digit(*c) >= 0).count(), 64);
        let bit = |n: usize| if n < 256 { key[n / 8] >> (7 - n % 8) & 1 } else { 0 };
        let mut text: Vec<u8> =
            (0..43).map(|d| alphabet[(0..6).fold(0, |v, b| v << 1 | bit(6 * d + b) as usize)]).collect();
        text.extend(b"=\n");
        let (_dir, path) = file(&text, 0o600);
        assert_eq!(read_wireguard(&path).unwrap().expose()[..], key[..]);
        for bad in [&text[1..], &text[..43], b"", &[b'='; 44], &[b'A'; 44], &[b'A'; 2000]] {
            let (_dir, path) = file(bad, 0o600);
            let error = read_wireguard(&path).unwrap_err();
            assert!(matches!(error, KeyFileError::WireGuard { .. }) && !error.to_string().contains("AAAA"), "{error}");
        }
        // Bits beyond the 32 bytes, and a byte that is no digit.
        for (place, byte) in [(42, b'/'), (5, b'-'), (5, 0xC1)] {
            let mut bad = text.clone();
            bad[place] = byte;
            assert!(base64_key(bad.trim_ascii()).is_none());
        }
        let (_dir, open) = file(&text, 0o644);
        assert!(matches!(read_wireguard(&open), Err(KeyFileError::Mode { .. })));
    }

    #[test]
    fn a_stranger_s_file_is_refused() {
        let (_dir, path) = file(HEX.as_bytes(), 0o600);
        let meta = fs::metadata(&path).unwrap();
        // Seen by some other user than the file's owner; where the owner is root that is accepted.
        let stranger = check(&locate_in(&path, None).unwrap(), &meta, meta.uid() + 1);
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
