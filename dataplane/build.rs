//! Embeds the steer program's object where there is one. It is built from source by `cargo xtask ebpf`, never here: it needs
//! another toolchain, and most of the crate builds and tests without it. With the feature `ipsec-mb`, links that library.

use std::{env, fs, path::PathBuf};

fn main() {
    #[cfg(feature = "ipsec-mb")]
    {
        let shim = "src/crypto/aead/ipsec_mb.c";
        println!("cargo:rerun-if-changed={shim}");
        cc::Build::new().file(shim).warnings(true).compile("softdpu_ipsec_mb");
        println!("cargo:rustc-link-lib=IPSec_MB");
    }
    println!("cargo:rerun-if-env-changed=SOFTDPU_STEER_OBJECT");
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    let object = env::var_os("SOFTDPU_STEER_OBJECT")
        .map_or_else(|| manifest.join("../target/ebpf/softdpu-steer.o"), PathBuf::from);
    // A file that is not there yet counts as changed once it is.
    println!("cargo:rerun-if-changed={}", object.display());

    let source = if object.is_file() {
        let copy = out.join("softdpu-steer.o");
        fs::copy(&object, &copy).expect("the object can be copied to OUT_DIR");
        format!("{{ static BYTES: &Aligned<[u8]> = &Aligned(*include_bytes!({copy:?})); Some(&BYTES.0) }}")
    } else {
        println!(
            "cargo:warning=no steer program at {}: ports of kind xdp will not start (build it with `cargo xtask ebpf`)",
            object.display()
        );
        "None".to_owned()
    };
    fs::write(out.join("steer_object.rs"), source).expect("OUT_DIR can be written");
}
