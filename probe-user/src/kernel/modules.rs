//! Kernel modules: loaded, built in, or gone, and a watch that sees each load, unload and reload.
//!
//! A kprobe on a module's function is silently dead after the module was unloaded and loaded again,
//! so a reload between two looks must be seen as well: `/sys/module/NAME` is then a new directory
//! with a new inode number (kernfs numbers its nodes cyclically, `kernfs_new_node`).
//! stallprobe never loads a module: it looks, and nothing more.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::symbols::Symbols;

/// A module to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Name with underscores, as in `/proc/modules`.
    pub name: &'static str,
    /// A function of it that is never inlined. In kallsyms without a module's tag it says that the
    /// code is part of the kernel.
    pub anchor: &'static str,
}

/// The modules that hooks are attached to.
pub const WATCHED: [Watched; 5] = [
    Watched { name: "nf_conntrack", anchor: "nf_conntrack_in" },
    Watched { name: "nf_nat", anchor: "nf_nat_setup_info" },
    Watched { name: "ip_vs", anchor: "ip_vs_conn_new" },
    Watched { name: "nf_reject_ipv4", anchor: "nf_send_unreach" },
    Watched { name: "nf_reject_ipv6", anchor: "nf_send_unreach6" },
];

/// What a module is right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleState {
    /// Part of the kernel image: always there.
    BuiltIn,
    /// Loaded and initialised. The inode of `/sys/module/NAME` tells one load from the next.
    Live { inode: u64 },
    /// Not there, or on its way in or out.
    NotLoaded,
}

impl ModuleState {
    /// Whether its functions can be hooked.
    #[must_use]
    pub fn is_present(self) -> bool {
        self != Self::NotLoaded
    }
}

/// What happened to a module between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Loaded,
    Unloaded,
    /// Unloaded and loaded again: what was attached to it is dead.
    Reloaded,
}

/// A module and what happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModuleChange {
    pub name: &'static str,
    pub change: Change,
}

/// Watches a few modules.
#[derive(Debug)]
pub struct ModuleWatch {
    root: PathBuf,
    modules: Vec<(Watched, ModuleState)>,
}

impl ModuleWatch {
    /// Takes the first look. Whether a module is built in is decided here, once: by `symbols`, by
    /// `/lib/modules/RELEASE/modules.builtin`, or by a directory in `/sys/module` that no loadable
    /// module has.
    ///
    /// # Errors
    /// When `/proc/modules` or `/sys/module` is there and cannot be read.
    pub fn new(
        root: &Path,
        watched: &[Watched],
        release: &str,
        symbols: Option<&Symbols>,
    ) -> Result<Self> {
        let listed =
            fs::read_to_string(root.join("lib/modules").join(release).join("modules.builtin"))
                .unwrap_or_default();
        let mut watch = Self { root: root.to_owned(), modules: Vec::new() };
        for &module in watched {
            let state = if in_kernel(symbols, module.anchor)
                || listed_builtin(&listed, module.name)
                || watch.directory_is_builtin(module.name)?
            {
                ModuleState::BuiltIn
            } else {
                ModuleState::NotLoaded
            };
            watch.modules.push((module, state));
        }
        watch.poll()?;
        Ok(watch)
    }

    /// Looks again, and tells what changed since the last look.
    ///
    /// # Errors
    /// When `/proc/modules` or `/sys/module` is there and cannot be read.
    pub fn poll(&mut self) -> Result<Vec<ModuleChange>> {
        let text = self.proc_modules()?;
        let mut changes = Vec::new();
        for (module, state) in &mut self.modules {
            if *state == ModuleState::BuiltIn {
                continue;
            }
            let now = if is_live(&text, module.name) {
                inode(&self.root, module.name)?
                    .map_or(ModuleState::NotLoaded, |inode| ModuleState::Live { inode })
            } else {
                ModuleState::NotLoaded
            };
            if let Some(change) = difference(*state, now) {
                changes.push(ModuleChange { name: module.name, change });
            }
            *state = now;
        }
        Ok(changes)
    }

    /// What a watched module was at the last look; `NotLoaded` for one that is not watched.
    #[must_use]
    pub fn state(&self, name: &str) -> ModuleState {
        self.modules
            .iter()
            .find(|(module, _)| module.name == name)
            .map_or(ModuleState::NotLoaded, |&(_, state)| state)
    }

    /// The text of `/proc/modules`; empty on a kernel without loadable modules.
    fn proc_modules(&self) -> Result<String> {
        let path = self.root.join("proc/modules");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Built-in code with parameters has a directory, too, but without the file `initstate`. A
    /// loadable module lacks that file only for a moment while it comes or goes, and is listed then.
    fn directory_is_builtin(&self, name: &str) -> Result<bool> {
        let listed = is_listed(&self.proc_modules()?, name);
        let directory = self.root.join("sys/module").join(name);
        let bare = directory.is_dir() && !directory.join("initstate").exists();
        Ok(bare && !listed && !is_listed(&self.proc_modules()?, name))
    }
}

fn difference(before: ModuleState, now: ModuleState) -> Option<Change> {
    match (before, now) {
        (ModuleState::Live { inode: old }, ModuleState::Live { inode: new }) => {
            (old != new).then_some(Change::Reloaded)
        }
        (ModuleState::Live { .. }, _) => Some(Change::Unloaded),
        (_, ModuleState::Live { .. }) => Some(Change::Loaded),
        _ => None,
    }
}

/// The inode of `/sys/module/NAME`; `None` when it went away meanwhile.
fn inode(root: &Path, name: &str) -> Result<Option<u64>> {
    let path = root.join("sys/module").join(name);
    match fs::metadata(&path) {
        Ok(metadata) => Ok(Some(metadata.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot look at {}", path.display())),
    }
}

/// Whether `/proc/modules` (`name size refs users state address`) shows the module as Live.
fn is_live(text: &str, name: &str) -> bool {
    text.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next() == Some(name) && words.nth(3) == Some("Live")
    })
}

/// Whether `/proc/modules` shows the module in any state.
fn is_listed(text: &str, name: &str) -> bool {
    text.lines().any(|line| line.split_ascii_whitespace().next() == Some(name))
}

/// Whether `modules.builtin` (`kernel/net/netfilter/nf_conntrack.ko`) lists the module.
fn listed_builtin(text: &str, name: &str) -> bool {
    text.lines().any(|line| {
        line.rsplit('/')
            .next()
            .and_then(|file| file.strip_suffix(".ko"))
            .is_some_and(|file| file.replace('-', "_") == name)
    })
}

fn in_kernel(symbols: Option<&Symbols>, anchor: &str) -> bool {
    symbols.is_some_and(|symbols| symbols.functions(anchor).any(|found| found.module.is_none()))
}

#[cfg(test)]
#[path = "modules_tests.rs"]
mod tests;
