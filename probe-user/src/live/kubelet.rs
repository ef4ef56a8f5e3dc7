//! Which process is the node's kubelet. A wrong one would make probes of a program's own connects, so a
//! name alone is not enough: any user's program may call itself so, and any pod's.

use std::{os::unix::fs::MetadataExt as _, path::Path};

use crate::pods::{
    identity::{Id, Owner},
    process::comm,
};

/// What a process is to probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Other,
    /// It is the kubelet, or has nothing else in it that connects to pods.
    Kubelet,
    /// The kubelet is a part of it, and it connects to pods for an API server too: its own (`kubectl get
    /// --raw …/proxy`), or k3s's by a tunnel that ends here (`--egress-selector-mode=pod`).
    Part,
}

/// What such programs are called (`/proc/PID/comm`): the kubelet of kubeadm, RKE2, k0s, Talos and kind;
/// k3s, which runs itself again under these names; MicroK8s.
fn named(comm: &str) -> Role {
    match comm {
        "kubelet" => Role::Kubelet,
        "k3s-server" | "k3s-agent" | "kubelite" => Role::Part,
        _ => Role::Other,
    }
}

/// Whether a program of this name may be a node's kubelet.
pub fn is_called_so(comm: &[u8]) -> bool {
    let name = comm.split(|b| *b == 0).next().unwrap_or_default();
    std::str::from_utf8(name).is_ok_and(|name| named(name) != Role::Other)
}

/// What the process is, which belongs to `owner`: run by root, and by no pod. A container that is no
/// pod's may run it, as Docker does for RKE or the node itself with kind. Such a node has a network of
/// its own: outside of the one that stallprobe runs in (`is_here`) only a container's counts.
pub fn role(root: &Path, pid: u32, owner: Option<&Owner>, is_here: bool) -> Role {
    let is_nodes = match owner.map(|owner| &owner.id) {
        None => is_here,
        Some(Id::Container(_)) => true,
        Some(Id::Pod(_)) => false,
    };
    let is_root = || {
        let dir = root.join(format!("proc/{pid}"));
        std::fs::metadata(dir).is_ok_and(|meta| meta.uid() == 0)
    };
    let role = comm(root, pid).map_or(Role::Other, |comm| named(&comm));
    if role != Role::Other && is_nodes && is_root() { role } else { Role::Other }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::pods::identity::Owners;

    const POD: &str = "0b8a9e1c-5a3f-4c6e-9d2b-7f1e2a3b4c5d";

    /// The role of a process that root runs (tests do) with this name and cgroup.
    fn of(comm: &str, cgroup: &str, is_here: bool) -> Role {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path().join("proc/7");
        std::fs::create_dir_all(&proc).unwrap();
        std::fs::write(proc.join("comm"), format!("{comm}\n")).unwrap();
        std::fs::write(proc.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
        let owner = Owners::new(dir.path()).of(7).unwrap();
        role(dir.path(), 7, owner.as_ref(), is_here)
    }

    #[test]
    fn kubelets_of_distributions() {
        if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
            return;
        }
        let id = "ab".repeat(32);
        for (comm, cgroup, want) in [
            ("kubelet", "/system.slice/kubelet.service".to_owned(), Role::Kubelet),
            ("kubelet", "/system.slice/rke2-server.service".to_owned(), Role::Kubelet),
            ("kubelet", "/system.slice/k0scontroller.service".to_owned(), Role::Kubelet),
            ("kubelet", "/podruntime/kubelet".to_owned(), Role::Kubelet),
            ("kubelet", format!("/docker/{id}"), Role::Kubelet),
            ("kubelet", format!("/system.slice/docker-{id}.scope"), Role::Kubelet),
            ("k3s-agent", "/system.slice/k3s-agent.service".to_owned(), Role::Part),
            ("k3s-server", "/system.slice/k3s.service".to_owned(), Role::Part),
            (
                "kubelite",
                "/system.slice/snap.microk8s.daemon-kubelite.service".to_owned(),
                Role::Part,
            ),
            ("kube-proxy", "/system.slice/kubelet.service".to_owned(), Role::Other),
            ("kubelet", format!("/kubepods/burstable/pod{POD}/{id}"), Role::Other),
            ("kubelet", format!("/docker/{id}/kubelet/kubepods/pod{POD}/{id}"), Role::Other),
        ] {
            assert_eq!(of(comm, &cgroup, true), want, "{comm} in {cgroup}");
        }
    }

    #[test]
    fn names_as_the_kernel_has_them() {
        for (comm, may_be) in [
            (b"kubelet\0\0\0\0\0\0\0\0\0", true),
            (b"k3s-agent\0\0\0\0\0\0\0", true),
            (b"kubelet-other\0\0\0", false),
            (b"\xff\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", false),
        ] {
            assert_eq!(is_called_so(comm), may_be, "{comm:?}");
        }
    }

    #[test]
    fn in_another_network_only_a_node_that_is_a_container() {
        if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
            return;
        }
        let id = "ab".repeat(32);
        let kind = format!("/docker/{id}/kubelet.slice/kubelet.service");
        assert_eq!(of("kubelet", &kind, false), Role::Kubelet);
        assert_eq!(of("kubelet", "/system.slice/kubelet.service", false), Role::Other);
        assert_eq!(of("kubelet", &format!("{kind}/kubepods/pod{POD}/{id}"), false), Role::Other);
    }
}
