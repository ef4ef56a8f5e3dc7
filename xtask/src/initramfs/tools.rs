//! The host's own programs and their shared libraries in the guest: no image to build or download.
use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    cache::{Cache, run_quietly},
    cpio::Tree,
    progress::note,
    setup::unpacked,
};

/// Programs without which the guest or the lab does not work, with the Debian package they are in.
const REQUIRED: &[&str] = &[
    "bash",
    "busybox",
    "conntrack",
    "dnsmasq",
    "getent",
    "ip",
    "ip6tables",
    "ip6tables-legacy",
    "ip6tables-legacy-restore",
    "ip6tables-nft",
    "ip6tables-nft-restore",
    "ip6tables-restore",
    "ip6tables-save",
    "iptables",
    "iptables-legacy",
    "iptables-legacy-restore",
    "iptables-legacy-save",
    "iptables-nft",
    "iptables-nft-restore",
    "iptables-nft-save",
    "iptables-restore",
    "iptables-save",
    "ipset",
    "ipvsadm",
    "kmod",
    "nft",
    "nsenter",
    "setpriv",
    "ss",
    "tc",
    "timeout",
    "unshare",
];

/// Programs that are welcome when the host has them.
const OPTIONAL: &[&str] = &["bpftool", "bridge", "ethtool", "nstat", "strace", "tcpdump"];

/// The one program under several names. `modprobe` comes into being only when the guest's init
/// runs: the kernel would call it many times while it boots, which costs a second and finds nothing.
const KMOD_NAMES: [&str; 5] = ["depmod", "insmod", "lsmod", "modinfo", "rmmod"];

const FOLDERS: [&str; 5] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin"];

/// Where the loader looks.
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";

/// Extensions of iptables, loaded by name at run time.
const XTABLES: &str = "/usr/lib/x86_64-linux-gnu/xtables";

/// Host files whose change means a new archive.
pub fn inputs(cache: &Cache) -> Result<Vec<PathBuf>> {
    let programs = REQUIRED.iter().chain(OPTIONAL).filter_map(|name| find(name));
    let unpacked = unpacked::programs(cache)?.into_iter().map(|(_, path)| path);
    Ok(programs.chain(unpacked).collect())
}

fn find(name: &str) -> Option<PathBuf> {
    let mut paths = FOLDERS.iter().map(|folder| Path::new(folder).join(name));
    paths.find(|path| path.is_file())
}

pub fn add(tree: &mut Tree, cache: &Cache) -> Result<()> {
    let mut missing = Vec::new();
    for name in REQUIRED {
        match find(name) {
            Some(path) => program(tree, name, &path)?,
            None => missing.push(*name),
        }
    }
    if !missing.is_empty() {
        bail!("this machine lacks {}: run `cargo xtask setup`", missing.join(", "));
    }
    for name in OPTIONAL {
        if let Some(path) = find(name) {
            program(tree, name, &path)?;
        }
    }
    for (guest, path) in unpacked::programs(cache)? {
        tree.host_file(guest, 0o755, &path);
        libraries(tree, &path)?;
    }
    for name in KMOD_NAMES {
        tree.symlink(&format!("usr/sbin/{name}"), "/usr/bin/kmod");
    }
    xtables(tree)?;
    let busybox = find("busybox").context("busybox is missing: run `cargo xtask setup`")?;
    applets(tree, &guest_path(&busybox.canonicalize().context("cannot resolve busybox")?)?)
}

/// Adds a program with its libraries. Names like `iptables` are links to one program that looks at
/// the name it was called by.
fn program(tree: &mut Tree, name: &str, path: &Path) -> Result<()> {
    let real = path.canonicalize().with_context(|| format!("cannot resolve {}", path.display()))?;
    let guest = guest_path(&real)?;
    if !tree.contains(&guest) {
        tree.host_file(&guest, 0o755, &real);
        libraries(tree, &real)?;
    }
    if real.file_name().and_then(|n| n.to_str()) != Some(name) {
        let folder = match guest.rsplit_once('/') {
            Some((folder, _)) => folder,
            None => "usr/bin",
        };
        tree.symlink(&format!("{folder}/{name}"), &format!("/{guest}"));
    }
    Ok(())
}

fn xtables(tree: &mut Tree) -> Result<()> {
    let folder = Path::new(XTABLES);
    let list = folder
        .read_dir()
        .with_context(|| format!("cannot list {XTABLES}: run `cargo xtask setup`"))?;
    for entry in list {
        let path = entry.with_context(|| format!("cannot list {XTABLES}"))?.path();
        tree.host_file(&guest_path(&path)?, 0o644, &path);
        libraries(tree, &path)?;
    }
    Ok(())
}

/// The guest's busybox under the names of its applets, where another program is not there already.
/// That of the host tells them.
pub fn applets(tree: &mut Tree, guest: &str) -> Result<()> {
    let busybox = find("busybox").context("busybox is missing: run `cargo xtask setup`")?;
    let list = run_quietly(Command::new(&busybox).arg("--list"))?;
    for applet in String::from_utf8_lossy(&list).split_whitespace() {
        let taken = ["usr/bin", "usr/sbin"]
            .iter()
            .any(|folder| tree.contains(&format!("{folder}/{applet}")));
        if !taken {
            tree.symlink(&format!("usr/bin/{applet}"), &format!("/{guest}"));
        }
    }
    Ok(())
}

/// The shared libraries and the loader, each where the host has it (ldd(1)).
pub fn libraries(tree: &mut Tree, path: &Path) -> Result<()> {
    libraries_from(tree, path, &[])
}

/// The same, where libraries of Debian packages that are not installed lie in these folders.
pub fn libraries_from(tree: &mut Tree, path: &Path, folders: &[PathBuf]) -> Result<()> {
    let mut command = Command::new("ldd");
    if !folders.is_empty() {
        let list = env::join_paths(folders).context("odd path of a library")?;
        command.env("LD_LIBRARY_PATH", list);
    }
    let output = command.arg(path).output().context("cannot run ldd")?;
    // A static program is no error here: ldd says so and fails.
    for library in parse_ldd(&String::from_utf8_lossy(&output.stdout)) {
        let library = Path::new(library);
        let (Some(folder), Some(name)) = (library.parent(), library.file_name()) else {
            continue;
        };
        // Folders such as /lib are links to /usr; the file itself keeps the name it is asked by.
        let folder = match folders.iter().any(|unpacked| unpacked == folder) {
            true => PathBuf::from(LIBRARIES),
            false => folder
                .canonicalize()
                .with_context(|| format!("cannot resolve {}", folder.display()))?,
        };
        let guest = guest_path(&folder.join(name))?;
        if !tree.contains(&guest) {
            tree.host_file(&guest, 0o755, library);
        }
    }
    if String::from_utf8_lossy(&output.stdout).contains("not found") {
        note(&format!("{} lacks a shared library", path.display()));
    }
    Ok(())
}

/// The absolute paths in ldd's output: `libc.so.6 => /lib/.../libc.so.6 (0x...)` and the loader.
fn parse_ldd(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| {
            let path = line.split_once("=>").map_or(line, |(_, path)| path);
            let path = path.split_whitespace().next()?;
            path.starts_with('/').then_some(path)
        })
        .collect()
}

fn guest_path(host: &Path) -> Result<String> {
    let text = host.to_str().with_context(|| format!("{} is not UTF-8", host.display()))?;
    Ok(text.trim_start_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_output() {
        let text = "\tlinux-vdso.so.1 (0x00007eff34673000)\n\
            \tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007eff3457a000)\n\
            \tlibgone.so => not found\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007eff34675000)\n";
        assert_eq!(
            parse_ldd(text),
            ["/lib/x86_64-linux-gnu/libz.so.1", "/lib64/ld-linux-x86-64.so.2"]
        );
        assert!(parse_ldd("\tstatically linked\n").is_empty());
    }
}
