//! Facts of the node that the header and the findings speak of.

use std::path::Path;

use super::{kube_proxy, modules};
use crate::{
    event::Node,
    pods::{
        netns,
        procfs::{printable, read_text},
    },
};

/// Host names and kernel releases have at most 64 bytes.
const NAME_MAX: u64 = 4096;

/// Reads what can be read; what cannot stays empty. `drop_reasons` and `min_stall` are left for the
/// caller.
pub fn read(root: &Path) -> Node {
    Node {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        name: name(root),
        kernel: first_line(root, "proc/sys/kernel/osrelease"),
        machine: std::env::consts::ARCH.to_owned(),
        kube_proxy: kube_proxy::read(root),
        netns: netns::host(root).unwrap_or(0),
        modules: modules::read(root),
        ..Node::default()
    }
}

/// The node's host name. In a container `/proc/sys/kernel/hostname` gives the container's own, so
/// the file of the node goes first when its root is mounted elsewhere.
fn name(root: &Path) -> String {
    let mut places = ["proc/sys/kernel/hostname", "etc/hostname"];
    if root != Path::new("/") {
        places.reverse();
    }
    places
        .into_iter()
        .map(|place| first_line(root, place))
        .find(|name| !name.is_empty())
        .unwrap_or_default()
}

/// First line of a file that has any text, made printable; `/etc/hostname` may begin with comments.
fn first_line(root: &Path, path: &str) -> String {
    let text = read_text(&root.join(path), NAME_MAX).unwrap_or_default();
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    printable(line.unwrap_or_default().as_bytes())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_mounted_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert_eq!(
            read(root),
            Node {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                machine: std::env::consts::ARCH.to_owned(),
                ..Node::default()
            }
        );
        write(root, "proc/sys/kernel/hostname", "container\n");
        assert_eq!(read(root).name, "container");
        write(root, "etc/hostname", "# set by hand\n\nnode-1\u{1b}\n");
        write(root, "proc/sys/kernel/osrelease", "6.12.1-amd64\n");
        write(root, "proc/modules", "nf_nat 1 0 - Live 0x0\n");
        write(root, "proc/9/comm", "kube-proxy\n");
        write(root, "proc/9/cmdline", "kube-proxy\0--proxy-mode=nftables\0");
        fs::create_dir_all(root.join("proc/1/ns")).unwrap();
        symlink("net:[4026531840]", root.join("proc/1/ns/net")).unwrap();
        let found = read(root);
        assert_eq!(found.name, "node-1\\u{1b}");
        assert_eq!(found.kernel, "6.12.1-amd64");
        assert_eq!(found.kube_proxy, "nftables");
        assert_eq!(found.netns, 4_026_531_840);
        assert_eq!(found.modules, ["nf_nat"]);
    }

    #[test]
    fn the_real_node() {
        let found = read(Path::new("/"));
        assert!(!found.kernel.is_empty());
        assert!(!found.name.is_empty());
        assert_ne!(found.netns, 0);
    }
}
