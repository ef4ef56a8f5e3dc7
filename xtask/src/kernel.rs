//! Gets a kernel into the cache: download, unpack, decompress.
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    apt::{
        archive::Mirrors,
        fetch::{self, Wanted},
    },
    arch::Arch,
    cache::{Cache, Staging, create_dir, run_quietly},
    kernels::{self, Name, Series},
    progress::{Step, note},
    vmlinux,
};

/// A kernel in the cache.
pub struct Kernel {
    /// The short name, such as 6.12.
    pub name: &'static str,
    pub arch: Arch,
    /// What `uname -r` says.
    pub release: String,
    /// `boot/vmlinuz`, `boot/vmlinux` if it could be extracted, and `lib/modules/<release>`.
    folder: PathBuf,
}

impl Kernel {
    /// What QEMU boots: uncompressed if possible, which saves a second of emulated decompression.
    pub fn image(&self) -> PathBuf {
        let plain = self.folder.join("boot/vmlinux");
        if plain.is_file() { plain } else { self.folder.join("boot/vmlinuz") }
    }

    /// The modules, and depmod's tables about them.
    pub fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.release)
    }
}

/// The series called so on the command line.
pub fn series(name: &str) -> Result<&'static Series> {
    kernels::by_name(name).with_context(|| {
        let known = kernels::names().join(", ");
        format!("no kernel {name:?} is known here; there are {known}")
    })
}

/// The kernel from the cache, else downloaded: the first pin that can be had, else the newest
/// version of the series that the mirrors name.
pub fn provide(cache: &Cache, series: &'static Series) -> Result<Kernel> {
    let kernels = cache.kernels()?;
    let at = |release: &str| Kernel {
        name: series.name,
        arch: series.arch,
        release: release.to_owned(),
        folder: kernels.join(release),
    };
    let substitute = kernels.join(substitute_name(series));
    let cached = || {
        let pins = series.pins.iter().map(|pin| pin.release.to_owned());
        let mut releases = pins.chain(fs::read_to_string(&substitute).ok());
        releases.find(|release| kernels.join(release).is_dir())
    };
    if let Some(release) = cached() {
        return Ok(at(&release));
    }

    let _lock = cache.lock()?;
    if let Some(release) = cached() {
        return Ok(at(&release));
    }
    let mirrors = Mirrors::from_apt()?;
    let folder = cache.debs()?;
    for pin in series.pins {
        let debs: Result<Vec<PathBuf>> = pin
            .debs
            .iter()
            .map(|deb| {
                let wanted = Wanted { archive: deb.archive, path: deb.path, sha256: deb.sha256 };
                fetch::package(&mirrors, &wanted, &folder)
            })
            .collect();
        match debs {
            Ok(debs) => {
                let kernel = at(pin.release);
                unpack(&debs, &kernel)?;
                return Ok(kernel);
            }
            Err(error) => note(&format!("kernel {} cannot be had: {error:#}", pin.release)),
        }
    }
    let (debs, release) = newest(&mirrors, series, &folder)?;
    let kernel = at(&release);
    if !kernel.folder.is_dir() {
        unpack(&debs, &kernel)?;
    }
    fs::write(&substitute, &release)
        .with_context(|| format!("cannot write {}", substitute.display()))?;
    Ok(kernel)
}

/// The file that remembers which version stands in for these pins, so that it is not looked for
/// again. Other pins are another name.
fn substitute_name(series: &Series) -> String {
    let pins: Vec<&str> = series.pins.iter().map(|pin| pin.release).collect();
    format!("instead-of-{}", pins.join("-"))
}

/// Last resort: no pinned version is left at the mirrors. The newest of the series, else of those
/// that are taken for it.
fn newest(mirrors: &Mirrors, series: &Series, folder: &Path) -> Result<(Vec<PathBuf>, String)> {
    let mut failures = Vec::new();
    for names in series.names {
        match newest_called(mirrors, series, names, folder) {
            Ok((debs, release)) => {
                note(&format!(
                    "WARNING: no pinned kernel of series {} is left at the mirrors; using {release} \
                     instead",
                    series.name
                ));
                return Ok((debs, release));
            }
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    bail!(
        "kernel {} cannot be had from the configured mirrors: pin a newer version in \
         xtask/src/kernels.rs, or use another --kernel ({})",
        series.name,
        failures.join("; ")
    )
}

/// The newest version whose packages are called so.
fn newest_called(
    mirrors: &Mirrors,
    series: &Series,
    names: &[Name],
    folder: &Path,
) -> Result<(Vec<PathBuf>, String)> {
    let mut debs = Vec::new();
    let mut version: Option<String> = None;
    for name in names {
        let (archive, package) =
            fetch::search(mirrors, series.arch, series.suites, folder, |candidate, _| {
                let between = name.version(candidate);
                between.is_some_and(|found| version.as_deref().is_none_or(|v| v == found))
            })
            .with_context(|| format!("no package {}*{}", name.0, name.1))?;
        version = name.version(&package.name).map(str::to_owned);
        let wanted = Wanted { archive, path: &package.path, sha256: &package.sha256 };
        debs.push(fetch::package(mirrors, &wanted, folder)?);
        if debs.len() == names.len() {
            return Ok((debs, release(&package.name).to_owned()));
        }
    }
    bail!("series {} has no packages", series.name)
}

/// What `uname -r` says under a kernel of a package of this name.
fn release(package: &str) -> &str {
    let starts = ["linux-image-", "linux-binary-", "linux-modules-"];
    let rest = starts.iter().find_map(|start| package.strip_prefix(start)).unwrap_or(package);
    rest.trim_end_matches("-unsigned")
}

fn unpack(debs: &[PathBuf], kernel: &Kernel) -> Result<()> {
    let mut step = Step::start(format!("unpacking kernel {}", kernel.release));
    step.during(|| unpack_into_cache(debs, kernel))?;
    step.done("done");
    Ok(())
}

/// Unpacks the packages and brings the layouts of different Debian releases into one.
fn unpack_into_cache(debs: &[PathBuf], kernel: &Kernel) -> Result<()> {
    let release = &kernel.release;
    let staging = Staging::beside(&kernel.folder)?;
    let raw = staging.path().join("raw");
    for deb in debs {
        run_quietly(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&raw))?;
    }
    let first = |paths: &[String]| -> Result<PathBuf> {
        paths
            .iter()
            .map(|path| raw.join(path))
            .find(|path| path.exists())
            .with_context(|| format!("the packages of kernel {release} have no {paths:?}"))
    };
    let modules = first(&[format!("lib/modules/{release}"), format!("usr/lib/modules/{release}")])?;
    let vmlinuz =
        first(&[format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz")])?;

    let boot = staging.path().join("boot");
    let lib = staging.path().join("lib/modules");
    create_dir(&boot)?;
    create_dir(&lib)?;
    rename(&vmlinuz, &boot.join("vmlinuz"))?;
    rename(&modules, &lib.join(release))?;
    fs::remove_dir_all(&raw).with_context(|| format!("cannot remove {}", raw.display()))?;

    // QEMU boots Debian's arm64 image as it is.
    if kernel.arch == Arch::X86_64 {
        decompress(&boot, release)?;
    }
    run_quietly(Command::new("/usr/sbin/depmod").arg("-b").arg(staging.path()).arg(release))?;
    staging.publish()
}

/// Puts the ELF file beside the bzImage, if it can be had.
fn decompress(boot: &Path, release: &str) -> Result<()> {
    match extract(&boot.join("vmlinuz")) {
        Ok(plain) => {
            let path = boot.join("vmlinux");
            fs::write(&path, plain).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Err(error) => {
            note(&format!("kernel {release} stays compressed (boots a second slower): {error:#}"));
        }
    }
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to)
        .with_context(|| format!("cannot move {} to {}", from.display(), to.display()))
}

/// The ELF file inside a bzImage.
fn extract(vmlinuz: &Path) -> Result<Vec<u8>> {
    let image = fs::read(vmlinuz).with_context(|| format!("cannot read {}", vmlinuz.display()))?;
    let payload = vmlinux::payload(&image)?;
    let mut child = Command::new(payload.program)
        .args(["-d", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot run {}", payload.program))?;
    let mut stdin = child.stdin.take().context("no pipe to the decompressor")?;
    let output = thread::scope(|scope| {
        // The decompressor may close its input early: what it wrote decides.
        scope.spawn(move || stdin.write_all(payload.data).is_ok());
        child.wait_with_output()
    })
    .with_context(|| format!("cannot read from {}", payload.program))?;
    if !output.stdout.starts_with(b"\x7fELF") {
        bail!("{} gave no ELF file", payload.program);
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_name_gives_the_release() {
        assert_eq!(release("linux-image-6.1.0-56-cloud-amd64-unsigned"), "6.1.0-56-cloud-amd64");
        assert_eq!(release("linux-modules-7.2.13+deb14-cloud-amd64"), "7.2.13+deb14-cloud-amd64");
    }
}
