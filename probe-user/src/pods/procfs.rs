//! Reading `/proc`: bounded, and calm about processes that end while they are looked at.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

/// Enough for every file read here except the routes of a node.
pub const TEXT_MAX: u64 = 1 << 20;

/// Links followed in one path, as in the kernel (`MAXSYMLINKS`).
const LINKS: usize = 40;

/// Opens for reading. Never waits for a writer should the file be a pipe.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// The text of a file; bytes that are no UTF-8 become U+FFFD.
///
/// # Errors
/// When the file cannot be read, or is longer than `max` bytes.
pub fn read_text(path: &Path, max: u64) -> Result<String> {
    let file = open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1))
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", path.display()))?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > max) {
        bail!("{} is longer than {max} bytes", path.display());
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Like [`read_text`], `None` when there is no such file.
///
/// # Errors
/// As for [`read_text`].
pub fn read_optional(path: &Path, max: u64) -> Result<Option<String>> {
    match read_text(path, max) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where `path` is below `root`, with the links in it followed inside of that root: runtimes' folders are
/// often links to a larger disk, and below a root that is mounted elsewhere an absolute one leads out of
/// it. For paths that only the node's root can write.
pub fn inside(root: &Path, path: &str) -> PathBuf {
    if root == Path::new("/") {
        return root.join(path);
    }
    let names = |path: &Path| -> Vec<OsString> {
        let is_step =
            |part: &Component<'_>| matches!(part, Component::ParentDir | Component::Normal(_));
        path.components().filter(is_step).map(|part| part.as_os_str().to_owned()).rev().collect()
    };
    let (mut found, mut rest, mut links) = (PathBuf::new(), names(Path::new(path)), 0);
    while let Some(name) = rest.pop() {
        if name == ".." {
            found.pop();
            continue;
        }
        found.push(name);
        let Ok(to) = fs::read_link(root.join(&found)) else { continue };
        links += 1;
        if links > LINKS {
            break;
        }
        found.pop();
        if to.is_absolute() {
            found.clear();
        }
        rest.extend(names(&to));
    }
    root.join(found)
}

/// Whether the file, or the process it belongs to, does not exist (any more).
fn is_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| {
        error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
    })
}

/// Process ids (thread groups) below `root`/proc, lowest first.
///
/// # Errors
/// When `/proc` cannot be listed.
pub fn pids(root: &Path) -> Result<Vec<u32>> {
    let dir = root.join("proc");
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut pids: Vec<u32> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    Ok(pids)
}

/// Inode number of the network namespace of a process (of its main thread); `None` when the process
/// is gone or may not be looked at. `process` is a process id or `self`.
pub fn netns_of(root: &Path, process: &str) -> Option<u32> {
    let link = fs::read_link(root.join("proc").join(process).join("ns/net")).ok()?;
    u32::try_from(numbered(link.as_os_str().as_bytes(), "net")?).ok()
}

/// The number in a link such as `net:[4026531840]` or `socket:[12345]`.
pub fn numbered(link: &[u8], kind: &str) -> Option<u64> {
    let number = link.strip_prefix(kind.as_bytes())?.strip_prefix(b":[")?.strip_suffix(b"]")?;
    if number.is_empty() || !number.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// Makes untrusted bytes fit to be printed: what is no printable text is escaped as Rust does it.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\'' | '"' => text.push(char),
                _ => text.extend(char.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_in_links() {
        assert_eq!(numbered(b"net:[4026531840]", "net"), Some(4_026_531_840));
        assert_eq!(numbered(b"socket:[17]", "socket"), Some(17));
        for garbled in ["net:[]", "net:[+1]", "net:[1", "pid:[1]", "net:[99999999999999999999]", ""]
        {
            assert_eq!(numbered(garbled.as_bytes(), "net"), None, "{garbled}");
        }
    }

    #[test]
    fn escapes_what_a_terminal_would_obey() {
        assert_eq!(printable(b"nginx: it's \"ok\""), "nginx: it's \"ok\"");
        assert_eq!(printable(b"\x1b[2Jx\n"), "\\u{1b}[2Jx\\n");
        assert_eq!(printable(b"a\xffb"), "a\\xffb");
        assert_eq!(printable("a\u{202e}b".as_bytes()), "a\\u{202e}b");
        assert_eq!(printable("grüß".as_bytes()), "grüß");
    }

    #[test]
    fn reads_no_more_than_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read_text(&path, 5).unwrap(), "12345");
        assert!(read_text(&path, 4).unwrap_err().to_string().contains("longer than 4 bytes"));
        assert_eq!(read_optional(&dir.path().join("none"), 4).unwrap(), None);
        assert!(read_optional(dir.path(), 4).is_err(), "a folder is not a missing file");
    }

    #[test]
    fn links_lead_nowhere_but_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for folder in ["var/lib", "data/docker/containers", "etc"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for (to, link) in [
            ("/data/docker", "var/lib/docker"),
            ("../../../../../etc", "var/lib/up"),
            ("docker/containers", "var/lib/relative"),
            ("loop", "var/lib/loop"),
        ] {
            std::os::unix::fs::symlink(to, root.join(link)).unwrap();
        }
        for (path, found) in [
            ("var/lib/docker/containers/x", "data/docker/containers/x"),
            ("var/lib/relative/x", "data/docker/containers/x"),
            ("var/lib/up/shadow", "etc/shadow"),
            ("var/none/x", "var/none/x"),
            ("../../x", "x"),
        ] {
            assert_eq!(inside(root, path), root.join(found), "{path}");
        }
        assert!(inside(root, "var/lib/loop/x").starts_with(root));
        assert_eq!(
            inside(Path::new("/"), "var/../x"),
            Path::new("/var/../x"),
            "the kernel follows"
        );
    }

    #[test]
    fn lists_processes_lowest_first() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["proc/20", "proc/3", "proc/self", "proc/1000", "proc/4x"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        assert_eq!(pids(dir.path()).unwrap(), [3, 20, 1000]);
    }

    #[test]
    fn the_real_proc() {
        let root = Path::new("/");
        assert!(netns_of(root, "self").is_some());
        assert!(pids(root).unwrap().contains(&std::process::id()));
    }

    proptest! {
        #[test]
        fn printable_has_no_controls(bytes: Vec<u8>) {
            prop_assert!(!printable(&bytes).chars().any(char::is_control));
        }

        #[test]
        fn any_link_is_survived(link: Vec<u8>) {
            let _ = numbered(&link, "net");
        }
    }
}
