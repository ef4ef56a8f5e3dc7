//! Builds the kernel programs for the bpf target with the toolchain that builds us.

use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
    process::Command,
};

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
    let object = PathBuf::from(env::var("OUT_DIR")?).join("probe-ebpf");
    if let Err(why) = strip(&object) {
        println!("cargo::warning=the kernel programs keep their debug sections: {why}");
    }
    Ok(())
}

/// BTF is made from the debug sections, which are four fifths of the object and needed no more. rustc
/// brings the tool for its own `strip`.
fn strip(object: &Path) -> Result<(), Box<dyn Error>> {
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let sysroot = Command::new(rustc).args(["--print", "sysroot"]).output()?;
    let sysroot = PathBuf::from(String::from_utf8(sysroot.stdout)?.trim());
    let tool = sysroot.join("lib/rustlib").join(env::var("HOST")?).join("bin/rust-objcopy");
    let done = Command::new(&tool)
        .arg("--strip-debug")
        .arg(object)
        .env("LD_LIBRARY_PATH", sysroot.join("lib"))
        .output()
        .map_err(|err| format!("cannot run {}: {err}", tool.display()))?;
    if !done.status.success() {
        return Err(String::from_utf8_lossy(&done.stderr).trim().to_owned().into());
    }
    Ok(())
}
