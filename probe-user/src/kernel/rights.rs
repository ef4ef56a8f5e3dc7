//! What this process may do: the capabilities that count for loading programs and for looking at
//! other processes, and a sentence about what is missing.
//!
//! Sources: `/proc/self/status` (CapEff, Seccomp), `/proc/self/uid_map`;
//! include/uapi/linux/capability.h.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

/// A capability by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    DacOverride = 1,
    DacReadSearch = 2,
    SysPtrace = 19,
    SysAdmin = 21,
    SysResource = 24,
    Syslog = 34,
    Perfmon = 38,
    Bpf = 39,
}

impl Capability {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DacOverride => "CAP_DAC_OVERRIDE",
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::SysResource => "CAP_SYS_RESOURCE",
            Self::Syslog => "CAP_SYSLOG",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }
}

/// What the process may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// The effective capabilities, bit N is capability N.
    effective: u64,
    /// In a user namespace other than the first: capabilities there do not count for the kernel.
    in_user_namespace: bool,
    /// A seccomp filter is on, which may refuse `bpf()` whatever the capabilities are.
    seccomp_filter: bool,
}

impl Rights {
    /// Reads the rights of this process from `/proc/self` below `root`.
    ///
    /// # Errors
    /// When `/proc/self/status` cannot be read or has no line CapEff.
    pub fn load(root: &Path) -> Result<Self> {
        let path = root.join("proc/self/status");
        let status =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // Kernels without user namespaces have no uid_map.
        let uid_map = fs::read_to_string(root.join("proc/self/uid_map")).ok();
        Self::parse(&status, uid_map.as_deref())
            .with_context(|| format!("{} has no readable line CapEff", path.display()))
    }

    /// Understands the text of `/proc/self/status` and `/proc/self/uid_map`.
    #[must_use]
    pub fn parse(status: &str, uid_map: Option<&str>) -> Option<Self> {
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        Some(Self {
            effective: u64::from_str_radix(field("CapEff")?, 16).ok()?,
            in_user_namespace: uid_map.is_some_and(|map| !is_identity(map)),
            seccomp_filter: field("Seccomp") == Some("2"),
        })
    }

    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        !self.in_user_namespace && self.effective >> (capability as u8) & 1 == 1
    }

    /// Why no program can be loaded, with what to do, or `None` when it can be tried.
    ///
    /// Tracing programs need CAP_BPF and CAP_PERFMON; CAP_SYS_ADMIN stands for both
    /// (`bpf_capable`, `perfmon_capable` in include/linux/capability.h).
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        if self.in_user_namespace {
            return Some(
                "this process runs in a user namespace, whose root may not load programs into the \
                 node's kernel; run it on the node itself, or in a pod with hostUsers: true"
                    .to_owned(),
            );
        }
        if self.has(Capability::SysAdmin) {
            return None;
        }
        let missing: Vec<&str> = [Capability::Bpf, Capability::Perfmon]
            .into_iter()
            .filter(|&capability| !self.has(capability))
            .map(Capability::name)
            .collect();
        (!missing.is_empty()).then(|| {
            format!(
                "the right to load programs into the kernel is missing ({}); run it as root (sudo \
                 stallprobe), or in a pod whose securityContext.capabilities add it or that is \
                 privileged (kubectl debug node/NODE --profile=sysadmin)",
                missing.join(" and ")
            )
        })
    }

    /// What will not be seen although programs load: one sentence for each missing right.
    #[must_use]
    pub fn limits(&self) -> Vec<String> {
        let no_symbols = (!self.has(Capability::Syslog))
            .then(|| without(Capability::Syslog, "places in the kernel may have no names"));
        self.limits_of_pods().into_iter().chain(no_symbols).collect()
    }

    /// The same for a look at the pods alone.
    #[must_use]
    pub fn limits_of_pods(&self) -> Vec<String> {
        [
            (Capability::SysAdmin, "network namespaces cannot be entered to read what is in them"),
            (Capability::SysPtrace, "other users' processes and their sockets cannot be named"),
            (Capability::DacReadSearch, "other users' sockets and files cannot be looked at"),
        ]
        .into_iter()
        .filter(|&(capability, _)| !self.has(capability))
        .filter(|&(capability, _)| {
            capability != Capability::DacReadSearch || !self.has(Capability::DacOverride)
        })
        .map(|(capability, limit)| without(capability, limit))
        .collect()
    }

    /// What to add to a refusal by the kernel (EPERM) although the capabilities are there.
    #[must_use]
    pub fn hint_for_refused_call(&self) -> Option<String> {
        let by_limit = (!self.has(Capability::SysResource)).then_some(
            "without CAP_SYS_RESOURCE kernels before 5.11 allow few maps (RLIMIT_MEMLOCK)",
        );
        let by_filter = self.seccomp_filter.then_some(
            "a seccomp filter is active on this process and may forbid bpf(); in a pod, set \
             securityContext.seccompProfile.type: Unconfined or privileged: true",
        );
        let all: Vec<&str> = by_limit.into_iter().chain(by_filter).collect();
        (!all.is_empty()).then(|| all.join("; or "))
    }
}

/// Why the processes of the node are out of sight, or `None` when they are not: in a container with its
/// own process ids and without the node's `/proc`. Findings would have no names, and counters would be
/// those of the container. Who says where the node's files are (`given`) is believed.
#[must_use]
pub fn out_of_sight(root: &Path, given: bool) -> Option<&'static str> {
    if given || root != Path::new("/") { None } else { of_container(root) }
}

fn of_container(root: &Path) -> Option<&'static str> {
    /// PROC_PID_INIT_INO (include/linux/proc_ns.h).
    const INITIAL: &str = "pid:[4026531836]";
    let namespace = fs::read_link(root.join("proc/self/ns/pid")).ok()?;
    if namespace == Path::new(INITIAL) {
        return None;
    }
    Some(if boots(root) {
        "this machine has process ids of its own, as WSL2, LXC and kind's nodes have: if it is the node, \
         say --host-root /; in a pod, give it hostPID: true, or the node's / as a hostPath volume at /host"
    } else {
        "the node's processes are out of sight: this container has process ids of its own; give the pod \
         hostPID: true, or the node's / as a hostPath volume at /host (inside a node that is a container \
         itself, such as kind's, say --host-root /)"
    })
}

/// Whether process 1 starts a whole system, and not one container's program.
fn boots(root: &Path) -> bool {
    let first = fs::read_to_string(root.join("proc/1/comm")).unwrap_or_default();
    // WSL2's is `init(Debian)`, after the distribution.
    let name = first.trim_end().split('(').next();
    matches!(name, Some("systemd" | "init" | "openrc-init"))
}

fn without(capability: Capability, limit: &str) -> String {
    format!("without {} {limit}", capability.name())
}

/// Whether a uid_map is that of the first user namespace: all ids mapped to themselves.
fn is_identity(map: &str) -> bool {
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const FULL: &str = "Name:\tstallprobe\nCapInh:\t0000000000000000\nCapEff:\t000001ffffffffff\n\
                        CapBnd:\t000001ffffffffff\nSeccomp:\t0\nSeccomp_filters:\t0\n";
    const HOST: &str = "         0          0 4294967295\n";

    fn with(capabilities: &[Capability]) -> Rights {
        let bits = capabilities.iter().fold(0_u64, |bits, &c| bits | 1 << (c as u8));
        Rights::parse(&format!("CapEff:\t{bits:016x}\n"), Some(HOST)).unwrap()
    }

    #[test]
    fn root_on_the_node_may_do_everything() {
        let rights = Rights::parse(FULL, Some(HOST)).unwrap();
        assert_eq!(rights.refusal(), None);
        assert!(rights.limits().is_empty());
        assert_eq!(rights.hint_for_refused_call(), None);
        assert_eq!(Rights::parse(FULL, None), Some(rights), "a kernel without user namespaces");
    }

    #[test]
    fn missing_rights_are_named() {
        let none = with(&[]).refusal().unwrap();
        assert!(none.contains("(CAP_BPF and CAP_PERFMON)"), "{none}");
        let one = with(&[Capability::Bpf]).refusal().unwrap();
        assert!(one.contains("(CAP_PERFMON)"), "{one}");
        assert_eq!(with(&[Capability::Bpf, Capability::Perfmon]).refusal(), None);
        assert_eq!(with(&[Capability::SysAdmin]).refusal(), None, "SYS_ADMIN stands for both");
    }

    #[test]
    fn limits_follow_the_rights() {
        let limits = with(&[Capability::Bpf, Capability::Perfmon, Capability::SysPtrace]).limits();
        assert_eq!(limits.len(), 3, "{limits:?}");
        assert!(limits.iter().all(|limit| !limit.contains("SYS_PTRACE")), "{limits:?}");
        let pods = with(&[Capability::SysPtrace]).limits_of_pods();
        assert_eq!(pods.len(), 2, "{pods:?}");
        assert!(pods.iter().all(|limit| !limit.contains("SYSLOG")), "{pods:?}");
    }

    #[test]
    fn one_way_past_file_modes_is_enough() {
        let told = |capability| {
            let limits = with(&[capability]).limits();
            limits.iter().any(|limit| limit.contains("CAP_DAC_READ_SEARCH"))
        };
        assert!(told(Capability::Bpf));
        assert!(!told(Capability::DacReadSearch) && !told(Capability::DacOverride));
    }

    #[test]
    fn root_of_a_user_namespace_is_not_root() {
        let rights = Rights::parse(FULL, Some("0 100000 65536\n")).unwrap();
        assert!(!rights.has(Capability::Bpf));
        assert!(rights.refusal().unwrap().contains("user namespace"));
    }

    #[test]
    fn a_seccomp_filter_is_hinted_at() {
        let filtered = FULL.replace("Seccomp:\t0", "Seccomp:\t2");
        let rights = Rights::parse(&filtered, Some(HOST)).unwrap();
        let said = |rights: Rights| {
            let hint = rights.hint_for_refused_call().unwrap();
            (hint.contains("seccomp"), hint.contains("CAP_SYS_RESOURCE"))
        };
        assert_eq!(said(rights), (true, false));
        assert_eq!(said(with(&[Capability::SysAdmin])), (false, true));
        let both = Rights::parse("CapEff:\t0000000000200000\nSeccomp:\t2\n", Some(HOST)).unwrap();
        assert_eq!(said(both), (true, true), "either may be it");
    }

    #[test]
    fn a_container_without_the_nodes_processes_says_so() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("proc/self/ns");
        fs::create_dir_all(&folder).unwrap();
        let link = folder.join("pid");
        assert_eq!(of_container(root.path()), None, "a kernel that does not tell");
        std::os::unix::fs::symlink("pid:[4026531836]", &link).unwrap();
        assert_eq!(of_container(root.path()), None);
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("pid:[4026532200]", &link).unwrap();
        let told = || of_container(root.path()).unwrap();
        assert!(told().starts_with("the node's processes") && told().contains("hostPID"));
        fs::create_dir(root.path().join("proc/1")).unwrap();
        for (first, is_whole) in [("systemd", true), ("init(Debian)", true), ("stallprobe", false)]
        {
            fs::write(root.path().join("proc/1/comm"), format!("{first}\n")).unwrap();
            let (node, pod) = (told().find("--host-root /"), told().find("hostPID"));
            assert_eq!(node < pod, is_whole, "{first}: {}", told());
        }
        assert_eq!(out_of_sight(root.path(), false), None, "the node's files are elsewhere");
        assert_eq!(out_of_sight(Path::new("/"), true), None, "somebody said so");
    }

    #[test]
    fn text_without_capabilities_is_an_error() {
        for text in ["", "CapEff:\n", "CapEff:\txyz\n", "XCapEff:\t0\n"] {
            assert_eq!(Rights::parse(text, None), None, "{text:?}");
        }
        let root = tempfile::tempdir().unwrap();
        let error = format!("{:#}", Rights::load(root.path()).unwrap_err());
        assert!(error.contains("proc/self/status"), "{error}");
    }

    #[test]
    fn this_process_has_readable_rights() {
        Rights::load(Path::new("/")).unwrap();
    }
}
