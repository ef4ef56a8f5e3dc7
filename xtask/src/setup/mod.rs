//! `cargo xtask setup`: everything a fresh Debian machine with rustup and gcc still needs.
//!
//! Each step looks first and acts only on what is missing, so a second run is instant and
//! downloads nothing.
mod bpf_linker;
mod packages;
mod rust_src;
pub mod unpacked;

use std::process::ExitCode;

use anyhow::{Result, ensure};

pub use packages::as_root;

use crate::{
    arch::Arch,
    cache::Cache,
    cross, initramfs, kernel,
    kernels::{self, Series},
    progress::note,
    runtimes,
};

#[derive(clap::Args)]
pub struct Options {
    /// Only this kernel series; all by default. May be repeated.
    #[arg(long = "kernel", value_name = "KERNEL")]
    pub kernels: Vec<String>,
}

pub fn run(options: Options) -> Result<ExitCode> {
    let left_out = prepare_named(&options.kernels)?.left_out.len();
    left_out_runtimes(true);
    note(&match left_out {
        0 => "everything is there".to_owned(),
        _ => format!("everything else is there; {left_out} kernels are left out"),
    });
    Ok(ExitCode::SUCCESS)
}

/// What there is of the kernels that were asked for.
pub struct Kernels {
    /// From old to new.
    pub ready: Vec<&'static Series>,
    /// Those that cannot be had, and why.
    pub left_out: Vec<(&'static Series, String)>,
}

impl Kernels {
    /// Goes on without this one, and says so.
    pub fn leave_out(&mut self, series: &'static Series, error: &anyhow::Error) {
        note(&format!("WARNING: kernel {} is LEFT OUT: {error:#}", series.name));
        self.left_out.push((series, format!("{error:#}")));
    }
}

/// As [`prepare`], for the kernels of these names. Without a name for all there are, of which those
/// that are not required may be missing.
pub fn prepare_named(names: &[String]) -> Result<Kernels> {
    tools()?;
    let mut chosen: Vec<&'static Series> = if names.is_empty() {
        kernels::SERIES.iter().collect()
    } else {
        names.iter().map(|name| kernel::series(name)).collect::<Result<_>>()?
    };
    chosen.sort_by_key(|series| kernels::version(series.name));
    chosen.dedup_by_key(|series| series.name);
    // All packages before the first guest's file system, which depends on what is installed here.
    let packages: Vec<Result<()>> = chosen.iter().map(|series| packages_for(series)).collect();
    let mut kernels = Kernels { ready: Vec::new(), left_out: Vec::new() };
    for (series, packages) in chosen.into_iter().zip(packages) {
        match packages.and_then(|()| prepare_kernel(series)) {
            Ok(()) => kernels.ready.push(series),
            Err(error) if names.is_empty() && !series.required => {
                kernels.leave_out(series, &error);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(kernels)
}

/// Fetches the container runtimes of one machine if they are wanted. Why they cannot be had, which is
/// said: then that machine is left out.
pub fn left_out_runtimes(wanted: bool) -> Option<String> {
    let error = if wanted { runtimes::ensure_present().err()? } else { return None };
    note(&format!("WARNING: the machine with container runtimes is LEFT OUT: {error:#}"));
    Some(format!("{error:#}"))
}

/// Tools, and these kernels with their guest file systems.
pub fn prepare(kernels: &[&'static Series]) -> Result<()> {
    tools()?;
    kernels.iter().try_for_each(|series| packages_for(series))?;
    kernels.iter().try_for_each(|series| prepare_kernel(series))
}

fn packages_for(series: &Series) -> Result<()> {
    if series.arch == Arch::Aarch64 {
        packages::ensure_cross_machine()?;
        cross_tools()?;
    }
    Ok(())
}

fn prepare_kernel(series: &'static Series) -> Result<()> {
    let cache = Cache::open()?;
    let kernel = kernel::provide(&cache, series)?;
    initramfs::base(&cache, &kernel).map(drop)
}

/// What building and the virtual machines need, without kernels.
pub fn tools() -> Result<()> {
    ensure!(
        cfg!(all(target_arch = "x86_64", target_os = "linux")),
        "only x86-64 Linux machines are supported for now"
    );
    packages::ensure_installed()?;
    unpacked::ensure_present(&Cache::open()?)?;
    build_tools()
}

/// What building for aarch64 needs, beside what building needs anyway.
pub fn cross_tools() -> Result<()> {
    packages::ensure_cross_compiler()?;
    build_tools()?;
    cross::add_target()
}

/// What building alone needs.
pub fn build_tools() -> Result<()> {
    rust_src::ensure_present()?;
    bpf_linker::ensure_installed()
}
