//! Which network namespaces there are: the node's own, those with an `ip netns` name, and those in
//! which a process lives.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    identity::place,
    netns_path::netns_at,
    procfs::{netns_of, pids, printable},
};

/// Name of the node's own namespace.
pub const HOST: &str = "host";

/// No namespace has a lower inode number: they count up from 0xF000_0000 (`PROC_DYNAMIC_FIRST`), and
/// the first ones have fixed numbers just below that (`include/uapi/linux/nsfs.h`, since 6.18).
const FIRST_INODE: u32 = 0xefff_ff00;

/// A namespace as a person writes it: its inode number, a process id, a path such as
/// `/proc/PID/ns/net` or `/run/netns/NAME`, or an `ip netns` name.
///
/// # Errors
/// When there is no such process, file or name.
pub fn find(root: &Path, text: &str) -> Result<u32> {
    if let Ok(number) = text.parse::<u32>() {
        return match netns_of(root, text) {
            _ if number >= FIRST_INODE => Ok(number),
            Some(netns) => Ok(netns),
            None => bail!("there is no process {number} whose network namespace could be read"),
        };
    }
    if text.contains('/') {
        return netns_at(root, text);
    }
    let named = named(root)?;
    let found = named.iter().find(|(_, named)| named.name == text).map(|(netns, _)| *netns);
    found.with_context(|| format!("no network namespace is called {text:?}; see `ip netns`"))
}

/// A file below `/run/netns`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    pub path: PathBuf,
    /// Change time of the file's inode (seconds, nanoseconds). The mount keeps the inode, so another
    /// time means another namespace, also when the number is the same. Zero where nothing keeps it.
    pub stamp: (i64, i64),
}

/// Inode number of the node's own namespace: that of process 1, else (no rights) our own.
pub fn host(root: &Path) -> Option<u32> {
    netns_of(root, "1").or_else(|| netns_of(root, "self"))
}

/// Namespaces with a name, by inode number. Of several names of one namespace the first in order is
/// taken. Files that are no namespaces (left behind, or made before the mount) are skipped.
///
/// # Errors
/// When a folder that exists cannot be listed. An answer would look as if all pods had gone.
pub fn named(root: &Path) -> Result<BTreeMap<u32, Named>> {
    let mut found = BTreeMap::new();
    let own = root.join("proc/self/ns/net");
    let nsfs = fs::metadata(&own).with_context(|| format!("cannot stat {}", own.display()))?.dev();
    list(root, &root.join("run/netns"), nsfs, &mut found)?;
    // Mostly a link to /run. Below another root it would lead out of that root: do not follow.
    let var = root.join("var/run");
    if fs::symlink_metadata(&var).is_ok_and(|meta| meta.is_dir()) {
        list(root, &var.join("netns"), nsfs, &mut found)?;
    }
    Ok(found)
}

fn list(root: &Path, dir: &Path, nsfs: u64, found: &mut BTreeMap<u32, Named>) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot list {}", dir.display()));
        }
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", dir.display()))?;
        let link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        let path = if link { resolve(root, entry.path()) } else { entry.path() };
        // Removed between listing and now, or not a namespace.
        let Ok(meta) = fs::metadata(&path) else { continue };
        if meta.dev() != nsfs {
            continue;
        }
        let Ok(netns) = u32::try_from(meta.ino()) else { continue };
        let name = printable(entry.file_name().as_bytes());
        // A link to /proc/PID/ns/net keeps nothing: the kernel may make a new inode each time.
        let stamp = if link { (0, 0) } else { (meta.ctime(), meta.ctime_nsec()) };
        let this = Named { name, path, stamp };
        match found.get(&netns) {
            Some(other) if other.name <= this.name => {}
            _ => {
                found.insert(netns, this);
            }
        }
    }
    Ok(())
}

/// Follows one link (`ln -s /proc/PID/ns/net /run/netns/NAME` is common) inside the root.
fn resolve(root: &Path, link: PathBuf) -> PathBuf {
    match fs::read_link(&link) {
        Ok(to) => match to.strip_prefix("/") {
            Ok(inner) => root.join(inner),
            Err(_) => link.parent().map(|dir| dir.join(&to)).unwrap_or(to),
        },
        Err(_) => link,
    }
}

/// Processes of one namespace that are kept whatever they are: a person's shell in it tells nothing of
/// its pod.
pub const PIDS: usize = 32;
/// Of the others, those that are looked at for a container that none of the kept ones is in.
const MORE_PIDS: usize = 1024;
/// Containers of one namespace that are kept.
const MOST_CONTAINERS: usize = 64;

/// One pass over all processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inhabited {
    /// Inode number of the namespace → process ids in it, in order, at least one: the lowest [`PIDS`]
    /// of those that were looked at, and the lowest of each container that is not among these.
    pub pids: BTreeMap<u32, Vec<u32>>,
    /// Those with so many processes or containers that not all containers are known.
    pub crowded: BTreeSet<u32>,
    /// Whether all processes were looked at. Else what is not here may be there all the same.
    pub complete: bool,
}

/// Namespaces in which a process lives (main threads only). The highest process ids are looked at first,
/// which are mostly the newest: a pass that stops because `budget` is used up has seen the new pods.
///
/// # Errors
/// When `/proc` cannot be listed.
pub fn inhabited(root: &Path, budget: Duration) -> Result<Inhabited> {
    let deadline = Instant::now() + budget;
    let mut places = Vec::new();
    let mut complete = true;
    for (index, pid) in pids(root)?.into_iter().rev().enumerate() {
        if index % 64 == 63 && Instant::now() >= deadline {
            complete = false;
            break;
        }
        places.extend(netns_of(root, &pid.to_string()).map(|netns| (pid, netns)));
    }
    // The node's own has most processes, and no containers that belong to it.
    let host = host(root);
    let mut more: BTreeMap<u32, More> = BTreeMap::new();
    let mut found = Inhabited { complete, ..Inhabited::default() };
    for (pid, netns) in places.into_iter().rev() {
        let pids = found.pids.entry(netns).or_default();
        if pids.len() < PIDS {
            pids.push(pid);
        } else if Some(netns) != host {
            let more = more.entry(netns).or_insert_with(|| More::beside(root, pids));
            match more.has_other_container(root, pid) {
                Some(true) => pids.push(pid),
                Some(false) => {}
                None => {
                    found.crowded.insert(netns);
                }
            }
        }
    }
    Ok(found)
}

/// What is looked at of a namespace with more than [`PIDS`] processes.
struct More {
    containers: BTreeSet<Option<String>>,
    looks: usize,
}

impl More {
    fn beside(root: &Path, pids: &[u32]) -> Self {
        Self { containers: pids.iter().map(|&pid| container(root, pid)).collect(), looks: 0 }
    }

    /// Whether the process is the first of its container; `None` when too much was looked at already.
    fn has_other_container(&mut self, root: &Path, pid: u32) -> Option<bool> {
        if self.looks >= MORE_PIDS || self.containers.len() >= MOST_CONTAINERS {
            return None;
        }
        self.looks += 1;
        Some(self.containers.insert(container(root, pid)))
    }
}

fn container(root: &Path, pid: u32) -> Option<String> {
    // It may just have ended.
    place(root, pid).ok()?.container
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::symlink;

    use super::*;

    /// A root in which every plain file counts as a namespace, as `/proc/self/ns/net` is one too.
    fn fixture() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("proc/self/ns")).unwrap();
        fs::write(dir.path().join("proc/self/ns/net"), "").unwrap();
        dir
    }

    fn name_in(root: &Path, dir: &str, name: &str) -> u32 {
        fs::create_dir_all(root.join(dir)).unwrap();
        let path = root.join(dir).join(name);
        fs::write(&path, "").unwrap();
        u32::try_from(fs::metadata(&path).unwrap().ino()).unwrap()
    }

    fn process(root: &Path, pid: u32, link: &str) {
        let ns = root.join(format!("proc/{pid}/ns"));
        fs::create_dir_all(&ns).unwrap();
        symlink(link, ns.join("net")).unwrap();
    }

    #[test]
    fn names_in_both_folders() {
        let root = fixture();
        assert!(named(root.path()).unwrap().is_empty(), "no folder, no names");
        let web = name_in(root.path(), "run/netns", "web");
        let db = name_in(root.path(), "var/run/netns", "db\u{1b}");
        let found = named(root.path()).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[&web].name, "web");
        assert_eq!(found[&db].name, "db\\u{1b}");
    }

    #[test]
    fn a_linked_var_run_is_not_followed() {
        let root = fixture();
        name_in(root.path(), "elsewhere/netns", "web");
        fs::create_dir_all(root.path().join("var")).unwrap();
        symlink("../elsewhere", root.path().join("var/run")).unwrap();
        assert!(named(root.path()).unwrap().is_empty());
    }

    #[test]
    fn links_stay_inside_the_root() {
        let root = fixture();
        let real = name_in(root.path(), "proc/9/ns", "net");
        fs::create_dir_all(root.path().join("run/netns")).unwrap();
        symlink("/proc/9/ns/net", root.path().join("run/netns/web")).unwrap();
        let found = named(root.path()).unwrap();
        assert_eq!(found[&real].name, "web");
        assert_eq!(found[&real].path, root.path().join("proc/9/ns/net"));
        assert_eq!(found[&real].stamp, (0, 0));
    }

    #[test]
    fn one_namespace_with_two_names_has_the_first() {
        let root = fixture();
        let netns = name_in(root.path(), "run/netns", "b");
        let dir = root.path().join("run/netns");
        fs::hard_link(dir.join("b"), dir.join("a")).unwrap();
        fs::hard_link(dir.join("b"), dir.join("c")).unwrap();
        assert_eq!(named(root.path()).unwrap()[&netns].name, "a");
    }

    #[test]
    fn files_that_are_no_namespaces_are_skipped() {
        let root = fixture();
        name_in(root.path(), "run/netns", "left-behind");
        fs::remove_file(root.path().join("proc/self/ns/net")).unwrap();
        symlink("/proc/self/ns/net", root.path().join("proc/self/ns/net")).unwrap();
        assert!(named(root.path()).unwrap().is_empty(), "a plain file is not on nsfs");
    }

    #[test]
    fn a_folder_that_cannot_be_listed_is_an_error() {
        let root = fixture();
        fs::create_dir_all(root.path().join("run")).unwrap();
        fs::write(root.path().join("run/netns"), "").unwrap();
        assert!(named(root.path()).unwrap_err().to_string().contains("cannot list"));
    }

    #[test]
    fn processes_by_namespace() {
        let root = fixture();
        process(root.path(), 1, "net:[100]");
        process(root.path(), 30, "net:[200]");
        process(root.path(), 4, "net:[200]");
        process(root.path(), 5, "garbled");
        fs::create_dir_all(root.path().join("proc/6")).unwrap();
        let found = inhabited(root.path(), Duration::from_secs(60)).unwrap();
        assert!(found.complete);
        assert_eq!(found.pids, BTreeMap::from([(100, vec![1]), (200, vec![4, 30])]));
        assert_eq!(host(root.path()), Some(100));
    }

    #[test]
    fn each_container_of_a_namespace_with_many_processes() {
        let root = fixture();
        process(root.path(), 1, "net:[100]");
        let join = |pid: u32, container: u32| {
            process(root.path(), pid, "net:[200]");
            let path = format!("0::/kubepods/pod{}/{container:064x}\n", "a".repeat(32));
            fs::write(root.path().join(format!("proc/{pid}/cgroup")), path).unwrap();
        };
        let look = || inhabited(root.path(), Duration::from_secs(60)).unwrap();
        (10..60).for_each(|pid| join(pid, 1));
        (60..80).for_each(|pid| join(pid, 2));
        let kept: Vec<u32> = (10..42).chain([60]).collect();
        assert_eq!((&look().pids[&200], look().crowded.len()), (&kept, 0));
        (100..200).for_each(|pid| join(pid, pid));
        let found = look();
        assert!(found.pids[&200].len() < PIDS + MOST_CONTAINERS, "{found:?}");
        assert_eq!(found.crowded, BTreeSet::from([200]));
    }

    #[test]
    fn a_namespace_as_a_person_writes_it() {
        let root = fixture();
        process(root.path(), 30, "net:[4026532114]");
        let web = name_in(root.path(), "run/netns", "web");
        let found = |text: &str| find(root.path(), text);
        assert_eq!(found("4026532999").unwrap(), 4_026_532_999, "it may be gone");
        assert_eq!(found("30").unwrap(), 4_026_532_114);
        assert_eq!(found("/proc/30/ns/net").unwrap(), 4_026_532_114);
        assert_eq!(found("web").unwrap(), web);
        for (odd, why) in [
            ("31", "no process 31"),
            ("db", "no network namespace is called"),
            ("/run/netns/db", "cannot stat"),
            ("/run/netns/web", "is no network namespace"),
        ] {
            let error = found(odd).unwrap_err();
            assert!(format!("{error:#}").contains(why), "{odd}: {error:#}");
        }
        let mount = find(Path::new("/"), "/proc/self/ns/mnt");
        assert!(mount.is_err(), "{mount:?} is another kind");
    }

    #[test]
    fn a_pass_out_of_time_says_so() {
        let root = fixture();
        for pid in 1..=100 {
            process(root.path(), pid, "net:[100]");
        }
        process(root.path(), 101, "net:[200]");
        let found = inhabited(root.path(), Duration::ZERO).unwrap();
        assert!(!found.complete);
        assert_eq!(found.pids[&200], [101], "the newest process is seen");
    }
}
