//! Initramfs archives: the "newc" cpio format, written without root and byte for byte the same
//! for the same content (no times, no owners, sorted paths).
//!
//! Format: Documentation/driver-api/early-userspace/buffer-format.rst. The kernel accepts several
//! archives one after another, so a cached base and a small archive per run can be concatenated.
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};

const S_IFDIR: u32 = 0o040_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// One thing in the archive.
enum Entry {
    Dir,
    /// Content that is in memory.
    Bytes {
        mode: u32,
        bytes: Vec<u8>,
    },
    /// Content read from the host when the archive is written.
    HostFile {
        mode: u32,
        path: PathBuf,
    },
    Symlink(String),
    CharDevice {
        mode: u32,
        major: u32,
        minor: u32,
    },
}

/// A file tree that becomes an archive. Paths are relative to the guest's root, without a leading
/// slash; parent directories come by themselves.
#[derive(Default)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

impl Tree {
    pub fn dir(&mut self, path: &str) {
        self.parents(path);
        self.entries.entry(path.to_owned()).or_insert(Entry::Dir);
    }

    pub fn bytes(&mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) {
        self.put(path, Entry::Bytes { mode, bytes: bytes.into() });
    }

    pub fn host_file(&mut self, path: &str, mode: u32, host: &Path) {
        self.put(path, Entry::HostFile { mode, path: host.to_owned() });
    }

    pub fn symlink(&mut self, path: &str, target: &str) {
        self.put(path, Entry::Symlink(target.to_owned()));
    }

    pub fn char_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        self.put(path, Entry::CharDevice { mode, major, minor });
    }

    pub fn contains(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    fn put(&mut self, path: &str, entry: Entry) {
        self.parents(path);
        self.entries.insert(path.to_owned(), entry);
    }

    fn parents(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            self.entries.entry(path[..at].to_owned()).or_insert(Entry::Dir);
        }
    }

    /// Writes the archive. Its length is a multiple of four, so another one may follow.
    pub fn write_to(&self, out: &mut impl Write) -> Result<()> {
        for (index, (path, entry)) in self.entries.iter().enumerate() {
            let inode = u32::try_from(index)
                .context("too many files for a cpio archive")?
                .saturating_add(1);
            let mut header = Header { inode, links: 1, ..Header::default() };
            match entry {
                Entry::Dir => {
                    header.mode = S_IFDIR | 0o755;
                    header.links = 2;
                    header.write(out, path, &[])
                }
                Entry::Bytes { mode, bytes } => {
                    header.mode = S_IFREG | mode;
                    header.write(out, path, bytes)
                }
                Entry::HostFile { mode, path: host } => {
                    let bytes = fs::read(host)
                        .with_context(|| format!("cannot read {}", host.display()))?;
                    header.mode = S_IFREG | mode;
                    header.write(out, path, &bytes)
                }
                Entry::Symlink(target) => {
                    header.mode = S_IFLNK | 0o777;
                    header.write(out, path, target.as_bytes())
                }
                Entry::CharDevice { mode, major, minor } => {
                    header.mode = S_IFCHR | mode;
                    header.device = (*major, *minor);
                    header.write(out, path, &[])
                }
            }
            .with_context(|| format!("cannot write {path} to the archive"))?;
        }
        Header { links: 1, ..Header::default() }
            .write(out, "TRAILER!!!", &[])
            .context("cannot end the archive")
    }
}

#[derive(Default)]
struct Header {
    inode: u32,
    mode: u32,
    links: u32,
    device: (u32, u32),
}

impl Header {
    fn write(&self, out: &mut impl Write, name: &str, data: &[u8]) -> Result<()> {
        ensure!(!name.contains('\0'), "the name has a NUL byte");
        let size = u32::try_from(data.len()).context("the file is larger than 4 GB")?;
        let Ok(name_size) = u32::try_from(name.len() + 1) else { bail!("the name is too long") };
        write!(
            out,
            "070701{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
            self.inode,
            self.mode,
            0, // uid
            0, // gid
            self.links,
            0, // mtime
            size,
            0, // device of the file system, major
            0, // and minor
            self.device.0,
            self.device.1,
            name_size,
            0, // checksum, unused in this format
        )?;
        out.write_all(name.as_bytes())?;
        out.write_all(&[0])?;
        pad(out, 110 + name.len() + 1)?;
        out.write_all(data)?;
        pad(out, data.len())?;
        Ok(())
    }
}

/// Header with name, and data, each end on a multiple of four.
fn pad(out: &mut impl Write, written: usize) -> io::Result<()> {
    out.write_all(&[0; 3][..written.next_multiple_of(4) - written])
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::process::{Command, Stdio};

    use super::*;

    fn sample() -> Vec<u8> {
        let mut tree = Tree::default();
        tree.symlink("bin", "usr/bin");
        tree.bytes("usr/bin/hello", 0o755, *b"#!/bin/sh\n");
        tree.bytes("odd", 0o600, *b"abcde");
        tree.char_device("dev/console", 0o600, 5, 1);
        tree.dir("proc");
        let mut bytes = Vec::new();
        tree.write_to(&mut bytes).unwrap();
        bytes
    }

    fn cpio(arguments: &[&str], archive: &[u8]) -> String {
        let mut child = Command::new("cpio")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(archive).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn the_hosts_cpio_reads_it() {
        assert_eq!(
            cpio(&["-it"], &sample()),
            "bin\ndev\ndev/console\nodd\nproc\nusr\nusr/bin\nusr/bin/hello\n"
        );
        assert_eq!(
            cpio(&["-i", "--to-stdout", "odd", "usr/bin/hello"], &sample()),
            "abcde#!/bin/sh\n"
        );
        let listing = cpio(&["-itv", "--numeric-uid-gid"], &sample());
        assert!(listing.contains("crw-------"), "{listing}");
        assert!(listing.contains("bin -> usr/bin"), "{listing}");
    }

    #[test]
    fn archives_can_follow_each_other() {
        assert_eq!(sample().len() % 4, 0);
        assert_eq!(sample(), sample());
    }
}
