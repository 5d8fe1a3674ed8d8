//! Embeds the objects of the steer program and of the one for SmartNICs where there are any. They are built from source by
//! `cargo xtask ebpf`, never here: that needs another toolchain, and most of the crate builds and tests without it. With the feature `ipsec-mb`, links that library.

use std::{env, fs, path::PathBuf};

fn main() {
    #[cfg(feature = "ipsec-mb")]
    {
        let shim = "src/crypto/aead/ipsec_mb.c";
        println!("cargo:rerun-if-changed={shim}");
        cc::Build::new().file(shim).warnings(true).compile("softdpu_ipsec_mb");
        println!("cargo:rustc-link-lib=IPSec_MB");
    }
    for (name, variable) in [("steer", "SOFTDPU_STEER_OBJECT"), ("nic", "SOFTDPU_NIC_OBJECT")] {
        embed(name, variable);
    }
}

fn embed(name: &str, variable: &str) {
    println!("cargo:rerun-if-env-changed={variable}");
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    let object =
        env::var_os(variable).map_or_else(|| manifest.join(format!("../target/ebpf/softdpu-{name}.o")), PathBuf::from);
    // A file that is not there yet counts as changed once it is.
    println!("cargo:rerun-if-changed={}", object.display());

    let source = if object.is_file() {
        let copy = out.join(format!("softdpu-{name}.o"));
        fs::copy(&object, &copy).expect("the object can be copied to OUT_DIR");
        format!("{{ static BYTES: &Aligned<[u8]> = &Aligned(*include_bytes!({copy:?})); Some(&BYTES.0) }}")
    } else {
        println!(
            "cargo:warning=no {name} program at {}: build it with `cargo xtask ebpf`; without steer, ports of kind xdp do not start",
            object.display()
        );
        "None".to_owned()
    };
    fs::write(out.join(format!("{name}_object.rs")), source).expect("OUT_DIR can be written");
}
