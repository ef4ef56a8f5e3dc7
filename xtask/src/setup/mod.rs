//! `cargo xtask setup`: everything a fresh Debian machine with rustup and gcc still needs.
//!
//! Each step looks first and acts only on what is missing, so a second run is instant and
//! downloads nothing.
mod bpf_linker;
mod packages;
mod rust_src;

use std::process::ExitCode;

use anyhow::{Result, ensure};

pub use packages::as_root;

use crate::{
    cache::Cache,
    initramfs, kernel,
    kernels::{self, Series},
    progress::note,
};

#[derive(clap::Args)]
pub struct Options {
    /// Also this kernel series. May be repeated.
    #[arg(long = "kernel", value_name = "KERNEL")]
    pub kernels: Vec<String>,
    /// Every kernel series there is.
    #[arg(long)]
    pub all: bool,
}

pub fn run(options: Options) -> Result<ExitCode> {
    let mut chosen: Vec<&'static Series> =
        kernels::SERIES.iter().filter(|series| options.all || series.default).collect();
    for name in &options.kernels {
        chosen.push(kernel::series(name)?);
    }
    prepare(&chosen)?;
    note("everything is there");
    Ok(ExitCode::SUCCESS)
}

/// The series that are set up and tested when none is named.
pub fn default_kernels() -> Vec<&'static Series> {
    let series = kernels::SERIES.iter();
    series.filter(|series| series.default).collect()
}

/// Tools, and these kernels with their guest file systems.
pub fn prepare(kernels: &[&'static Series]) -> Result<()> {
    tools()?;
    let cache = Cache::open()?;
    for series in kernels {
        let kernel = kernel::provide(&cache, series)?;
        initramfs::base(&cache, &kernel)?;
    }
    Ok(())
}

/// What building and the virtual machines need, without kernels.
pub fn tools() -> Result<()> {
    ensure!(
        cfg!(all(target_arch = "x86_64", target_os = "linux")),
        "only x86-64 Linux machines are supported for now"
    );
    packages::ensure_installed()?;
    build_tools()
}

/// What building alone needs.
pub fn build_tools() -> Result<()> {
    rust_src::ensure_present()?;
    bpf_linker::ensure_installed()
}
