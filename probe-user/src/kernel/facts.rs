//! The kernel's and the node's name, and the sizes of the machine.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

/// What the header line of a run says, and what buffers are sized by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `uname -r`. For people; nothing is decided by it.
    pub release: String,
    /// `uname -m`.
    pub machine: &'static str,
    pub node: String,
    /// Bytes.
    pub page_size: usize,
    /// CPUs that are online.
    pub cpus: usize,
}

impl Facts {
    /// Reads them below `root`.
    ///
    /// # Errors
    /// When `/proc` or `/sys` is not mounted there.
    pub fn load(root: &Path) -> Result<Self> {
        let online = read(root, "sys/devices/system/cpu/online")?;
        Ok(Self {
            release: read(root, "proc/sys/kernel/osrelease")?,
            machine: std::env::consts::ARCH,
            node: node_name(root)?,
            page_size: page_size()?,
            cpus: count_cpus(&online).with_context(|| {
                format!("{:?} in sys/devices/system/cpu/online is no list of CPUs", online)
            })?,
        })
    }
}

/// The host name. `/proc/sys/kernel/hostname` answers for the reader's own UTS namespace, so in a
/// debug pod (where the node's files lie under another root) the node's file comes first.
fn node_name(root: &Path) -> Result<String> {
    if root != Path::new("/")
        && let Ok(name) = read(root, "etc/hostname")
        && !name.is_empty()
    {
        return Ok(name);
    }
    read(root, "proc/sys/kernel/hostname")
}

fn read(root: &Path, path: &str) -> Result<String> {
    let path = root.join(path);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// Counts the CPUs of a list such as `0-3,8`. `None` when it is not one.
fn count_cpus(list: &str) -> Option<usize> {
    let mut count = 0_usize;
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

fn page_size() -> Result<usize> {
    // SAFETY: sysconf only reads a number and takes no pointer.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    match usize::try_from(size) {
        Ok(size) if size.is_power_of_two() => Ok(size),
        _ => bail!("the system says that a page has {size} bytes"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn cpu_lists_are_counted() {
        for (list, count) in [
            ("0", Some(1)),
            ("0-3", Some(4)),
            ("0-3,8,10-11", Some(7)),
            ("", None),
            ("3-0", None),
            ("a", None),
            ("0-", None),
            ("0-18446744073709551615", None),
        ] {
            assert_eq!(count_cpus(list), count, "{list:?}");
        }
    }

    #[test]
    fn a_fixture_root_is_read() {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("proc/sys/kernel/osrelease", "6.12.0-test\n"),
            ("proc/sys/kernel/hostname", "pod-name\n"),
            ("sys/devices/system/cpu/online", "0-1\n"),
            ("etc/hostname", "node-1\n"),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let facts = Facts::load(root.path()).unwrap();
        assert_eq!(facts.release, "6.12.0-test");
        assert_eq!(facts.cpus, 2);
        assert_eq!(facts.node, "node-1", "not the name of the pod this runs in");
        fs::remove_file(root.path().join("etc/hostname")).unwrap();
        assert_eq!(Facts::load(root.path()).unwrap().node, "pod-name");
    }

    #[test]
    fn what_is_missing_is_named() {
        let root = tempfile::tempdir().unwrap();
        let error = format!("{:#}", Facts::load(root.path()).unwrap_err());
        assert!(error.contains("sys/devices/system/cpu/online"), "{error}");
    }

    #[test]
    fn this_machine_answers() {
        let facts = Facts::load(Path::new("/")).unwrap();
        assert!(!facts.release.is_empty() && !facts.node.is_empty());
        assert!(facts.cpus >= 1 && facts.page_size >= 4096);
    }
}
