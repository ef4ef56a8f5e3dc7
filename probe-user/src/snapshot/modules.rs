//! Which of the kernel modules that matter are there, as a module or built in.

use std::path::Path;

use crate::pods::procfs::{TEXT_MAX, read_text};

/// The modules whose presence decides which faults can happen.
pub const MATTER: [&str; 5] = ["nf_conntrack", "nf_nat", "ip_vs", "br_netfilter", "nf_tables"];

/// `modules.builtin` of a distribution kernel is 10 to 40 kB; `/proc/modules` less.
const LIST_MAX: u64 = TEXT_MAX;

/// Those of [`MATTER`] that are there.
pub fn read(root: &Path) -> Vec<String> {
    present(root, &MATTER)
}

/// Those of `names` that are loaded (`/proc/modules`) or built in (`/sys/module`, or
/// `/lib/modules/RELEASE/modules.builtin` for those without parameters). What cannot be read
/// counts as not there.
pub fn present(root: &Path, names: &[&str]) -> Vec<String> {
    let text = |path: &str| read_text(&root.join(path), LIST_MAX).unwrap_or_default();
    let loaded = text("proc/modules");
    let release = text("proc/sys/kernel/osrelease");
    let list = text(&format!("lib/modules/{}/modules.builtin", release.trim()));
    names
        .iter()
        .filter(|name| {
            is_loaded(&loaded, name)
                // Also there while a module is loaded or just going: /proc/modules decides then.
                || root.join("sys/module").join(name).join("parameters").exists()
                    && !root.join("sys/module").join(name).join("initstate").exists()
                || is_built_in(&list, name)
        })
        .map(|&name| name.to_owned())
        .collect()
}

/// Whether `/proc/modules` lists the module as usable (`kernel/module/procfs.c`, `m_show`: name,
/// size, users, their names, state, address).
fn is_loaded(modules: &str, name: &str) -> bool {
    modules.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next() == Some(name) && words.nth(3).is_none_or(|state| state == "Live")
    })
}

/// Whether `modules.builtin` names the module: a path such as `kernel/net/netfilter/nf_nat.ko`,
/// with dashes where the module's name has underscores.
fn is_built_in(list: &str, name: &str) -> bool {
    list.lines().any(|line| {
        line.rsplit('/')
            .next()
            .and_then(|file| file.strip_suffix(".ko"))
            .is_some_and(|file| file.replace('-', "_") == name)
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::fs;

    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn loaded_and_built_in() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert!(read(root).is_empty(), "nothing to read, nothing there");
        write(
            root,
            "proc/modules",
            "nf_nat 53248 1 xt_nat, Live 0xffff\nip_vs 1 0 - Unloading 0xffff\nx 1 0 - Live 0x0\n",
        );
        write(root, "sys/module/nf_conntrack/parameters/hashsize", "1\n");
        // Still there while it is unloading.
        write(root, "sys/module/ip_vs/parameters/conn_tab_bits", "12\n");
        write(root, "sys/module/ip_vs/initstate", "going\n");
        write(root, "proc/sys/kernel/osrelease", "6.12.1\n");
        write(
            root,
            "lib/modules/6.12.1/modules.builtin",
            "kernel/net/bridge/br-netfilter.ko\nkernel/net/netfilter/nf_tables_set.ko\n",
        );
        assert_eq!(read(root), ["nf_conntrack", "nf_nat", "br_netfilter"]);
    }

    #[test]
    fn garbled_lists_name_nothing() {
        assert!(!is_loaded("\n  \nnf_nat_ftp 1 0 - Live\n", "nf_nat"));
        assert!(is_loaded("nf_nat 1 0 -\n", "nf_nat"), "kernels without unloading show no state");
        assert!(!is_built_in("/\n.ko\nnf_nat\n", "nf_nat"));
    }
}
