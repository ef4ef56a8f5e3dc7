//! `cargo xtask dist`: what is given to people: the static binary, and an image with it alone.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};

use crate::{
    artifacts, cache,
    oci::{self, Program},
    progress::note,
};

/// It is copied to nodes and pulled while things go wrong.
const LARGEST: usize = 8 << 20;

#[derive(clap::Args)]
pub struct Options {
    /// Where to put it.
    #[arg(long, value_name = "DIR", default_value = "dist")]
    pub out: PathBuf,
}

pub fn run(options: Options) -> Result<ExitCode> {
    let built = artifacts::stallprobe()?;
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    ensure!(
        bytes.len() < LARGEST,
        "{} has {} bytes, the limit is {LARGEST}",
        built.display(),
        bytes.len()
    );
    cache::create_dir(&options.out)?;
    let binary = options.out.join("stallprobe-x86_64");
    fs::copy(&built, &binary).with_context(|| format!("cannot write {}", binary.display()))?;
    let programs = [Program { architecture: "amd64", bytes }];
    let archive = oci::archive("stallprobe", env!("CARGO_PKG_VERSION"), &programs)?;
    let image = options.out.join("stallprobe-oci.tar");
    fs::write(&image, &archive).with_context(|| format!("cannot write {}", image.display()))?;
    for (path, what) in [(&binary, "static binary"), (&image, "image archive (OCI)")] {
        let size = path.metadata().map_or(0, |meta| meta.len());
        note(&format!("{}: {what}, {size} bytes", path.display()));
    }
    note("NOT BUILT: the same for aarch64");
    Ok(ExitCode::SUCCESS)
}
