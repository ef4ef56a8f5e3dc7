//! Builds the kernel programs for the bpf target with the toolchain that builds us.

use std::{env, error::Error, process::Command};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=../probe-common/src");
    println!("cargo::rerun-if-env-changed=RUSTUP_TOOLCHAIN");
    if Command::new("bpf-linker").arg("--version").output().is_err() {
        return Err("bpf-linker is not installed: run `cargo xtask setup` first".into());
    }
    // SAFETY: the build script has one thread. Only the child cargo, which builds `core` for the
    // bpf target from source, needs the unstable flag this allows.
    unsafe {
        env::set_var("RUSTC_BOOTSTRAP", "1");
        // Its progress would come out as warnings of ours.
        env::set_var("CARGO_TERM_QUIET", "true");
    }
    let toolchain = env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "stable".into());
    aya_build::build_ebpf(
        [aya_build::Package {
            name: "probe-ebpf",
            root_dir: concat!(env!("CARGO_MANIFEST_DIR"), "/../probe-ebpf"),
            ..Default::default()
        }],
        aya_build::Toolchain::Custom(&toolchain),
    )?;
    Ok(())
}
