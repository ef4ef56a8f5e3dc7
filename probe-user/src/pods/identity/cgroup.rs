//! Which pod and which container a process belongs to, by its cgroup path.
//!
//! The kubelet makes one cgroup a pod below `kubepods`, and the runtime one a container in it:
//!
//! | driver | path |
//! |---|---|
//! | cgroupfs | `/kubepods/burstable/pod<UID>/<ID>` |
//! | systemd | `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<UID>.slice/cri-containerd-<ID>.scope` |
//! | containerd with the wrong driver | `/system.slice/containerd.service/kubepods-pod<UID>.slice:cri-containerd:<ID>` |
//! | kind | the same below `/docker/<ID of the node>/kubelet/` or `kubelet.slice/kubelet-` |
//! | Kata's virtual machine | `/kubepods/burstable/pod<UID>/kata_<ID>` or `/kata_overhead/<ID>`, or the pod's path below that |
//! | cgroupfs, for a reader in a pod's cgroup namespace | `/../../pod<UID>/<ID>` |
//!
//! A path is no proof. Whoever may write a cgroup can make any path below it: a container below its own,
//! a user below `user.slice`. So the first pod counts, and nothing after its container. Only a container
//! that may be a node (Docker's, podman's, nerdctl's) can have pods below it.
//!
//! The quality-of-service part is missing for guaranteed pods. With systemd a UID has `_` for `-`; that
//! of a static pod is a hash of 32 digits without either (`pkg/kubelet/cm/cgroup_manager_linux.go`,
//! `pkg/kubelet/config/common.go`).

use super::super::procfs::printable;

/// Longest unit that is taken over.
const UNIT: usize = 128;
/// Length of a container id: SHA-256 in hexadecimal digits, for all runtimes.
const ID: usize = 64;

/// Where a process belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The pod's UID as the API has it, with `-`.
    pub pod: Option<String>,
    /// The container's id, 64 hexadecimal digits.
    pub container: Option<String>,
    /// Whether any user of the node could have made this path. Then the id may be another container's.
    pub doubtful: bool,
    /// Whether it is of a virtual machine that the container runs in.
    pub kata: bool,
}

/// Reads `/proc/PID/cgroup`: lines `HIERARCHY:CONTROLLERS:PATH`, one with cgroup v2 (`0::PATH`), one
/// for each hierarchy with v1, both kinds with the hybrid layout. The line that tells most counts: some
/// hierarchies are not used by the runtime.
pub fn place(text: &str) -> Place {
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let rank = |place: &Place| (place.pod.is_some(), place.container.is_some(), !place.doubtful);
    paths.map(of_path).max_by_key(rank).unwrap_or_default()
}

fn of_path(path: &str) -> Place {
    let mut place = Place::default();
    let mut parts = path.split(['/', ':']).filter(|part| !part.is_empty()).peekable();
    let mut in_kubepods = false;
    // The cgroup namespace of a reader in a pod begins somewhere below kubepods.
    while parts.next_if_eq(&"..").is_some() {
        in_kubepods = true;
    }
    if in_kubepods {
        parts.next_if(|part| ["burstable", "besteffort"].contains(part));
        in_kubepods = parts.peek().is_some_and(|part| pod_uid(part).is_some());
    }
    let mut before = "";
    for part in parts {
        in_kubepods |= part.contains("kubepods");
        place.doubtful |= is_users(part);
        place.kata |= part == "kata_overhead" && before.is_empty();
        if let Some(uid) = pod_uid(part).filter(|_| in_kubepods && place.pod.is_none()) {
            if place.doubtful {
                break;
            }
            // What came before is the node that runs as a container (kind).
            place = Place { pod: Some(uid), kata: place.kata, ..Place::default() };
        } else if let Some(id) = container_id(part) {
            place.kata |= is_kata(part);
            place.container.get_or_insert(id);
            if place.pod.is_some() || !is_node(before, part) {
                break;
            }
        }
        before = part;
    }
    place
}

/// The systemd unit that a process is in, the innermost that is no slice; without one (no systemd) its
/// cgroup's path, if it is in any.
pub fn unit(text: &str) -> Option<String> {
    // The only hierarchy of v2, and systemd's own of v1 and the hybrid layout.
    let of = |prefix: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.split_once(':')?.1.strip_prefix(prefix)?.strip_prefix(':'))
    };
    let path = of("").into_iter().chain(of("name=systemd")).max_by_key(|path| path.len())?;
    let is_unit = |part: &&str| part.ends_with(".service") || part.ends_with(".scope");
    let named = path.rsplit('/').find(is_unit).unwrap_or(path);
    let short: String = named.chars().take(UNIT).collect();
    (named != "/" && !named.is_empty()).then(|| printable(short.as_bytes()))
}

/// Whether users may make cgroups below this one (systemd's `user@.service` has `Delegate=`).
fn is_users(part: &str) -> bool {
    part == "user.slice"
        || part.starts_with("user@")
        || (part.starts_with("user-") && part.ends_with(".slice"))
}

/// What Kata calls the cgroup of a sandbox (`sandbox_cgroup_only` or not).
fn is_kata(part: &str) -> bool {
    part.starts_with("kata_") || part.starts_with("kata-")
}

/// Whether a container may be a node with pods of its own. `before` is the part before the container's.
fn is_node(before: &str, part: &str) -> bool {
    let runtimes = ["docker-", "libpod-", "nerdctl-"];
    before == "docker" || runtimes.iter().any(|runtime| part.starts_with(runtime))
}

/// The UID in `pod<UID>` or `…-pod<UID>.slice`.
fn pod_uid(part: &str) -> Option<String> {
    let part = part.strip_suffix(".slice").unwrap_or(part);
    let uid = match part.rsplit_once("-pod") {
        Some((before, uid)) if before.contains("kubepods") => uid,
        _ => part.strip_prefix("pod")?,
    };
    let uid = uid.replace('_', "-");
    let is_hash = uid.len() == 32 && is_hex(&uid);
    (is_hash || is_uuid(&uid)).then_some(uid)
}

fn is_uuid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.split('-').all(is_hex)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The id in `<ID>`, `cri-containerd-<ID>.scope`, `crio-<ID>.scope`, `docker-<ID>.scope` or
/// `libpod-<ID>.scope`. A `conmon` scope is the container's monitor, outside of it.
fn container_id(part: &str) -> Option<String> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    let part = part.strip_prefix("kata_").unwrap_or(part);
    let (runtime, id) = part.rsplit_once('-').unwrap_or(("", part));
    let is_container = id.len() == ID && is_hex(id) && !runtime.ends_with("conmon");
    is_container.then(|| id.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "0b8a9e1c-5a3f-4c6e-9d2b-7f1e2a3b4c5d";
    const UNDERSCORED: &str = "0b8a9e1c_5a3f_4c6e_9d2b_7f1e2a3b4c5d";
    const HASH: &str = "a79d8c1d3e6f40b2a79d8c1d3e6f40b2";

    fn id(digit: char) -> String {
        std::iter::repeat_n(digit, ID).collect()
    }

    fn told(path: &str) -> (Option<String>, Option<String>) {
        let path = path.replace("UID", UID).replace("U_D", UNDERSCORED).replace("HASH", HASH);
        let Place { pod, container, .. } =
            place(&format!("0::{}\n", path.replace("<a>", &id('a')).replace("<b>", &id('b'))));
        (pod, container)
    }

    #[test]
    fn pods_of_every_layout() {
        for path in [
            "/kubepods/burstable/podUID/<a>",
            "/kubepods/besteffort/podUID/<a>",
            "/kubepods/podUID/<a>",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_D.slice/cri-containerd-<a>.scope",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_D.slice/crio-<a>.scope",
            "/kubepods.slice/kubepods-podU_D.slice/docker-<a>.scope",
            "/kubepods.slice/kubepods-podU_D.slice/docker-<a>.scope/init",
            "/system.slice/containerd.service/kubepods-burstable-podU_D.slice:cri-containerd:<a>",
            "/k3s.service/kubepods/burstable/podUID/<a>",
            "/docker/<b>/kubelet/kubepods/besteffort/podUID/<a>",
            "/docker/<b>/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podU_D.slice/cri-containerd-<a>.scope",
            "/system.slice/docker-<b>.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podU_D.slice/cri-containerd-<a>.scope",
            "/../../kubepods/burstable/podUID/<a>",
            "/kubepods/burstable/podUID/<a>/docker/<b>",
            "/machine.slice/libpod-<b>.scope/container/kubelet/kubepods/podUID/<a>",
            "/../../podUID/<a>",
            "/../../../burstable/podUID/<a>",
            "/../../kubepods-burstable-podU_D.slice/cri-containerd-<a>.scope",
        ] {
            assert_eq!(told(path), (Some(UID.to_owned()), Some(id('a'))), "{path}");
        }
        let pod = told("/kubepods/burstable/podHASH/<a>");
        assert_eq!(pod, (Some(HASH.to_owned()), Some(id('a'))), "a static pod");
        let pod = told("/kubepods/burstable/podUID");
        assert_eq!(pod, (Some(UID.to_owned()), None), "before its container");
        let monitor = told("/kubepods.slice/kubepods-podU_D.slice/crio-conmon-<a>.scope");
        assert_eq!(monitor, (Some(UID.to_owned()), None));
    }

    #[test]
    fn virtual_machines() {
        let of = |path: &str| {
            let path =
                path.replace("UID", UID).replace("U_D", UNDERSCORED).replace("<a>", &id('a'));
            let Place { pod, container, kata, .. } = place(&format!("0::{path}\n"));
            (pod.is_some(), container == Some(id('a')), kata)
        };
        for (path, expected) in [
            ("/kubepods/burstable/podUID/kata_<a>", (true, true, true)),
            ("/kata_overhead/<a>", (false, true, true)),
            ("/kata_overhead/kubepods/burstable/podUID/<a>", (true, true, true)),
            ("/kubepods.slice/kubepods-podU_D.slice/kata-<a>.scope", (true, true, true)),
            ("/kubepods/podUID/<a>", (true, true, false)),
            ("/kubepods/podUID/<a>/kata_overhead/x", (true, true, false)),
            ("/user.slice/kata_overhead/x", (false, false, false)),
        ] {
            assert_eq!(of(path), expected, "{path}");
        }
    }

    #[test]
    fn containers_without_a_pod() {
        for path in [
            "/docker/<a>",
            "/system.slice/docker-<a>.scope",
            "/machine.slice/libpod-<a>.scope/container",
            "/machine.slice/libpod-<a>.scope",
            "/default/<a>",
        ] {
            assert_eq!(told(path), (None, Some(id('a'))), "{path}");
        }
        assert_eq!(told("/machine.slice/libpod-conmon-<a>.scope"), (None, None));
    }

    #[test]
    fn what_is_no_container() {
        for path in [
            "/",
            "/init.scope",
            "/user.slice/user-0.slice/session-3.scope",
            "/system.slice/podman.service",
            "/system.slice/pod-UID.slice",
            "/podUID",
            "/kubepods/podsomething/else",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod.slice",
        ] {
            assert_eq!(told(path), (None, None), "{path}");
        }
    }

    /// Paths that a container or a user made below its own cgroup: the pod of these is another's.
    #[test]
    fn made_up_paths() {
        let own = "/kubepods/burstable/podUID/<a>".to_owned();
        for below in [
            "/kubepods/podHASH/<b>",
            "/kubepods.slice/kubepods-podHASH.slice/cri-containerd-<b>.scope",
            "/docker/<b>/kubepods/podHASH/<b>",
        ] {
            assert_eq!(told(&(own.clone() + below)), (Some(UID.to_owned()), Some(id('a'))));
            let monitor = "/kubepods.slice/kubepods-podU_D.slice/crio-conmon-<a>.scope".to_owned();
            assert_eq!(told(&(monitor + below)).0, Some(UID.to_owned()));
            for container in ["/system.slice/crio-<a>.scope", "/default/<a>"] {
                assert_eq!(told(&(container.to_owned() + below)), (None, Some(id('a'))));
            }
        }
        for user in
            ["/user.slice/user-7.slice/user@7.service", "/../user@7.service", "/../../user-7.slice"]
        {
            let made = told(&format!("{user}/kubepods/podUID/<a>"));
            assert_eq!(made, (None, None), "{user}");
            let made = place(&format!("0::{user}/app.slice/docker-{}.scope/x", id('a')));
            assert_eq!((made.container, made.doubtful), (Some(id('a')), true), "{user}");
        }
        assert_eq!(told("/../a/podUID/<a>").0, None, "not directly after");
    }

    #[test]
    fn the_line_that_tells_most() {
        let (a, pod) = (id('a'), format!("/kubepods/podUID/{}", id('a')).replace("UID", UID));
        let v1 =
            format!("12:cpuset:/\n11:memory:{pod}\n1:name=systemd:/docker/{}\n0::/\n", id('b'));
        assert_eq!(
            place(&v1),
            Place { pod: Some(UID.to_owned()), container: Some(a), ..Place::default() }
        );
        for garbled in ["", "\n", "0:", "0::", "::::", "x"] {
            assert_eq!(place(garbled), Place::default(), "{garbled:?}");
        }
    }

    #[test]
    fn units() {
        for (text, expected) in [
            ("0::/system.slice/ssh.service\n", "ssh.service"),
            ("0::/init.scope\n", "init.scope"),
            (
                "0::/user.slice/user-7.slice/user@7.service/app.slice/web.service/sub\n",
                "web.service",
            ),
            ("4:memory:/\n1:name=systemd:/system.slice/cron.service\n0::/\n", "cron.service"),
            ("1:name=systemd:/\n0::/system.slice/cron.service\n", "cron.service"),
            ("0::/my/daemon\n", "/my/daemon"),
            ("0::/a\u{1b}[2J.service\n", "a\\u{1b}[2J.service"),
            ("0::/\n", ""),
            ("4:memory:/system.slice/ssh.service\n", ""),
            ("", ""),
        ] {
            assert_eq!(unit(text).unwrap_or_default(), expected, "{text:?}");
        }
        assert!(
            unit(&format!("0::/{}.service", "x".repeat(4096))).is_some_and(|u| u.len() == UNIT)
        );
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "([0-9]{0,2}:|kubepods|pod|-pod|/|\\.slice|[0-9a-f]{64}|\\PC){0,60}") {
            let _ = unit(&text);
            let found = place(&text);
            prop_assert!(found.container.is_none_or(|id| id.len() == ID && is_hex(&id)));
            prop_assert!(found.pod.is_none_or(|uid| uid.len() == 32 || uid.len() == 36));
        }
    }
}
