//! Whether the key files are there and private. What is in them is `crypto`'s business: this looks at metadata only.

use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::policy::{Cipher, Policy, Sa};
use super::problem::{Code, Problem};
use crate::crypto::keyfile::locate;

/// One error for each key file that cannot be used.
pub fn check(policy: &Policy) -> Vec<Problem> {
    let both = policy.esp_tunnels().flat_map(|(_, t)| [(t.cipher, &t.out), (t.cipher, &t.inbound)]);
    both.filter_map(|(cipher, sa)| check_one(cipher, sa)).collect()
}

fn check_one(cipher: Cipher, sa: &Sa) -> Option<Problem> {
    // That there is none was told of.
    if sa.key_file.as_os_str().is_empty() {
        return None;
    }
    let bad = |message: String, help: String| {
        Some(Problem::error(Code::KeyFile, sa.key_span.clone(), message, help).label("this file"))
    };
    let place = match locate(&sa.key_file) {
        Ok(place) => place,
        Err(e) => return bad(e.to_string(), "or name a file by its path".into()),
    };
    let path = place.path.display();
    let meta = match std::fs::metadata(&place.path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            // Cipher key and salt (RFC 4106 section 8.1, RFC 7634 section 2).
            let bytes = if cipher == Cipher::Aes128Gcm { 20 } else { 36 };
            return bad(
                format!("key file {path} does not exist"),
                format!("make one, and give the peer a copy: (umask 077; openssl rand -hex {bytes} > {path})"),
            );
        }
        Err(e) => {
            return bad(format!("key file {path} cannot be looked at: {e}"), "run as a user who may read it".into());
        }
    };
    let mode = meta.permissions().mode() & 0o777;
    // SAFETY: geteuid has no arguments and cannot fail.
    let me = unsafe { libc::geteuid() };
    if !meta.is_file() {
        bad(format!("key file {path} is not a regular file"), "name a file that holds the key and the salt".into())
    } else if mode & place.forbidden() != 0 {
        bad(format!("others may read key file {path}: its mode is {mode:04o}"), format!("chmod 600 {path}"))
    } else if meta.uid() != 0 && meta.uid() != me {
        bad(
            format!("key file {path} belongs to user {}, who can change it", meta.uid()),
            format!("chown root {path}, or to the user softdpu runs as"),
        )
    } else {
        None
    }
}
