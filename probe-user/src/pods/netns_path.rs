//! A path of a network namespace that a person wrote.

use std::{
    ffi::OsString,
    fs,
    os::{
        fd::AsRawFd as _,
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::procfs::{numbered, open};

/// As in the kernel (`MAXSYMLINKS`).
const LINKS: usize = 40;

/// The inode number of the namespace that `text` stands for: `/proc/PID/ns/net`, a file that it is
/// mounted on, or a link to either. All links are followed inside of `root`.
///
/// # Errors
/// When it is not there, or is anything else, also another kind of namespace.
pub fn netns_at(root: &Path, text: &str) -> Result<u32> {
    let mut path = PathBuf::new();
    let mut rest = reversed(Path::new(text));
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part == ".." {
            path.pop();
            continue;
        }
        path.push(part);
        let Ok(to) = fs::read_link(root.join(&path)) else { continue };
        let bytes = to.as_os_str().as_bytes();
        if let Some(number) = numbered(bytes, "net").filter(|_| rest.is_empty()) {
            return u32::try_from(number).context("odd inode number");
        }
        if bytes.ends_with(b"]") && bytes.windows(2).any(|two| two == b":[") {
            bail!("{} is no network namespace but {}", root.join(path).display(), to.display());
        }
        links += 1;
        if links > LINKS {
            bail!("{text} has too many links");
        }
        path.pop();
        if to.is_absolute() {
            path.clear();
        }
        rest.extend(reversed(&to));
    }
    mounted(root, &root.join(path))
}

fn reversed(path: &Path) -> Vec<OsString> {
    let is_step =
        |part: &Component<'_>| matches!(part, Component::ParentDir | Component::Normal(_));
    path.components().filter(is_step).map(|part| part.as_os_str().to_owned()).rev().collect()
}

/// A file that a namespace is mounted on. It is opened only if it is on nsfs, where that does nothing.
fn mounted(root: &Path, path: &Path) -> Result<u32> {
    let device = |path: &Path| {
        let meta = fs::metadata(path).with_context(|| format!("cannot stat {}", path.display()));
        meta.map(|meta| meta.dev())
    };
    if device(path)? != device(&root.join("proc/self/ns/net"))? {
        bail!("{} is no network namespace", path.display());
    }
    let file = open(path).with_context(|| format!("cannot open {}", path.display()))?;
    // SAFETY: this request takes no argument; the descriptor is open for the whole call.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) } != libc::CLONE_NEWNET {
        bail!("{} is no network namespace", path.display());
    }
    let meta = file.metadata().with_context(|| format!("cannot stat {}", path.display()))?;
    u32::try_from(meta.ino()).context("odd inode number")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::symlink;

    use super::*;
    use crate::pods::procfs::netns_of;

    #[test]
    fn this_machine() {
        let root = Path::new("/");
        let own = netns_of(root, "self").unwrap();
        assert_eq!(netns_at(root, "/proc/self/ns/net").unwrap(), own);
        assert_eq!(netns_at(root, "/proc/../proc/thread-self/ns/net").unwrap(), own);
        for other in ["mnt", "pid"] {
            let error = netns_at(root, &format!("/proc/self/ns/{other}")).unwrap_err();
            assert!(error.to_string().contains("is no network namespace but"), "{error:#}");
        }
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        symlink("/proc/self/ns/mnt", &link).unwrap();
        assert!(netns_at(root, link.to_str().unwrap()).is_err());
        fs::remove_file(&link).unwrap();
        symlink("/proc/self/ns/net", &link).unwrap();
        assert_eq!(netns_at(root, link.to_str().unwrap()).unwrap(), own);
    }

    #[test]
    fn links_stay_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for folder in ["proc/30/ns", "proc/self/ns", "run/netns", "var"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        // One that is not outside of the root.
        symlink("net:[4026539999]", root.join("proc/30/ns/net")).unwrap();
        symlink("pid:[4026539998]", root.join("proc/30/ns/pid")).unwrap();
        symlink("/run", root.join("var/run")).unwrap();
        symlink("/proc/30/ns/net", root.join("run/netns/web")).unwrap();
        symlink("../../../../proc/30/ns/net", root.join("run/netns/up")).unwrap();
        symlink("loop", root.join("run/netns/loop")).unwrap();
        symlink("/proc/1/ns/net", root.join("run/netns/gone")).unwrap();
        fs::write(root.join("run/netns/plain"), "").unwrap();
        fs::write(root.join("proc/self/ns/net"), "").unwrap();
        for path in ["/proc/30/ns/net", "/run/netns/web", "/var/run/netns/web", "/run/netns/up"] {
            assert_eq!(netns_at(root, path).unwrap(), 4_026_539_999, "{path}");
        }
        for (path, why) in [
            ("/proc/30/ns/pid", "no network namespace but pid:[4026539998]"),
            ("/run/netns/loop", "too many links"),
            ("/run/netns/gone", "cannot stat"),
            ("/run/netns/plain", "is no network namespace"),
            ("/run/netns", "is no network namespace"),
        ] {
            let error = netns_at(root, path).unwrap_err();
            assert!(format!("{error:#}").contains(why), "{path}: {error:#}");
        }
    }
}
