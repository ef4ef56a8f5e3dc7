//! What is kept per user between runs: packages, unpacked kernels, initramfs images.
//!
//! Everything appears under its final name only when it is whole: it is made beside it and renamed.
use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// The cache folder: `$XDG_CACHE_HOME/stallprobe`, by default `~/.cache/stallprobe`.
#[derive(Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    pub fn open() -> Result<Self> {
        let base = match env::var_os("XDG_CACHE_HOME").map(PathBuf::from) {
            Some(path) if path.is_absolute() => path,
            _ => env::home_dir()
                .context("no home folder known: set HOME or XDG_CACHE_HOME")?
                .join(".cache"),
        };
        let root = base.join("stallprobe");
        create_dir(&root)?;
        Ok(Self { root })
    }

    pub fn debs(&self) -> Result<PathBuf> {
        self.folder("debs")
    }

    pub fn kernels(&self) -> Result<PathBuf> {
        self.folder("kernels")
    }

    pub fn initramfs(&self) -> Result<PathBuf> {
        self.folder("initramfs")
    }

    /// Debian packages that are unpacked and not installed.
    pub fn unpacked(&self) -> Result<PathBuf> {
        self.folder("unpacked")
    }

    /// Where virtual machines have their files while they run.
    pub fn runs(&self) -> Result<PathBuf> {
        self.folder("runs")
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        create_dir(&path)?;
        Ok(path)
    }

    /// Keeps other set-ups of the same user out until the returned file is dropped.
    pub fn lock(&self) -> Result<File> {
        let path = self.root.join("lock");
        let file =
            File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
        if file.try_lock().is_err() {
            crate::progress::note("waiting for another set-up of this user to finish");
            file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(file)
    }
}

pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
}

/// A folder beside `target` that becomes `target` by [`Staging::publish`] and goes away otherwise.
pub struct Staging {
    path: PathBuf,
    target: PathBuf,
}

impl Staging {
    pub fn beside(target: &Path) -> Result<Self> {
        let name = target
            .file_name()
            .and_then(|name| name.to_str())
            .context("a cache path without a name")?;
        let start = format!("{name}.part-");
        sweep(target, &start);
        let path = target.with_file_name(format!("{start}{}", std::process::id()));
        create_dir(&path)?;
        Ok(Self { path, target: target.to_owned() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn publish(self) -> Result<()> {
        fs::rename(&self.path, &self.target).with_context(|| {
            format!("cannot rename {} to {}", self.path.display(), self.target.display())
        })
    }
}

/// Removes what processes that were killed left behind. What cannot be removed does no harm.
fn sweep(target: &Path, start: &str) {
    let list = target.parent().and_then(|folder| folder.read_dir().ok());
    for entry in list.into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(start));
        if owner.is_some_and(|pid| !is_other_process(pid)) {
            let _removed = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_other_process(pid: &str) -> bool {
    pid != std::process::id().to_string() && Path::new("/proc").join(pid).exists()
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After publish() nothing is left under this name.
        let _gone = fs::remove_dir_all(&self.path);
    }
}

/// Runs a host command to its end; its output is shown only when it fails.
pub fn run_quietly(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    ensure!(
        output.status.success(),
        "{name} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_folder_appears_only_when_it_is_whole() {
        let root = env::temp_dir().join(format!("stallprobe-cache-{}", std::process::id()));
        create_dir(&root).unwrap();
        let target = root.join("kernel");
        // No process has the number 0.
        let left_over = root.join("kernel.part-0");
        create_dir(&left_over.join("x")).unwrap();

        let given_up = Staging::beside(&target).unwrap();
        let given_up_path = given_up.path().to_owned();
        assert!(given_up_path.is_dir() && !left_over.exists());
        drop(given_up);
        assert!(!given_up_path.exists() && !target.exists());

        let staging = Staging::beside(&target).unwrap();
        fs::write(staging.path().join("file"), "x").unwrap();
        staging.publish().unwrap();
        assert!(target.join("file").is_file());
        fs::remove_dir_all(&root).unwrap();
    }
}
