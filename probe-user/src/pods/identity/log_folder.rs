//! Pods by the names of their log folders: the kubelet makes `/var/log/pods/NAMESPACE_NAME_UID` for
//! each pod before its first container, whatever the runtime (`pkg/kubelet/kuberuntime/helpers.go`,
//! `BuildPodLogsDirectory`), and removes it some time after the pod.

use std::{collections::HashMap, fs, io, path::Path};

use anyhow::{Context as _, Result};

use super::{super::procfs::inside, PodName};

/// Folders looked at: a node has some hundred pods; left-overs of old ones may stay.
const MOST: usize = 16384;

/// All pods that have a log folder, by UID; none when the node has no such folder.
///
/// # Errors
/// When the folder exists and cannot be listed.
pub fn pods(root: &Path) -> Result<HashMap<String, PodName>> {
    let dir = inside(root, "var/log/pods");
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", dir.display())),
    };
    let names = entries.take(MOST).filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| parse(&name)).collect())
}

/// Neither a namespace nor a pod's name nor a UID may hold `_`.
fn parse(folder: &str) -> Option<(String, PodName)> {
    let mut parts = folder.split('_');
    let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
    let pod = PodName::new(namespace, name)?;
    (parts.next().is_none() && !uid.is_empty()).then(|| (uid.to_owned(), pod))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_uids() {
        let root = tempfile::tempdir().unwrap();
        assert!(pods(root.path()).unwrap().is_empty(), "no such folder");
        for folder in [
            "kube-system_coredns-5d78c9869d-abcde_0b8a9e1c-5a3f-4c6e-9d2b-7f1e2a3b4c5d",
            "kube-system_etcd-node.example_a79d8c1d3e6f40b2a79d8c1d3e6f40b2",
            "lost+found",
            "a_b",
            "a_b_c_d",
            "_b_c",
            "Bad_name_uid",
            "a_ev\u{1b}il_uid",
        ] {
            fs::create_dir_all(root.path().join("var/log/pods").join(folder)).unwrap();
        }
        let found = pods(root.path()).unwrap();
        assert_eq!(found.len(), 2);
        let name = |uid: &str| found[uid].to_string();
        assert_eq!(
            name("0b8a9e1c-5a3f-4c6e-9d2b-7f1e2a3b4c5d"),
            "kube-system/coredns-5d78c9869d-abcde"
        );
        assert_eq!(name("a79d8c1d3e6f40b2a79d8c1d3e6f40b2"), "kube-system/etcd-node.example");
    }

    proptest! {
        #[test]
        fn any_name_is_survived(name in "([a-z0-9]|_|-|\\.|\\PC){0,40}") {
            if let Some((uid, pod)) = parse(&name) {
                prop_assert_eq!(format!("{}_{}_{uid}", pod.namespace, pod.name), name);
            }
        }
    }

    #[test]
    fn a_folder_that_cannot_be_listed_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("var/log")).unwrap();
        fs::write(root.path().join("var/log/pods"), "").unwrap();
        assert!(pods(root.path()).unwrap_err().to_string().contains("cannot list"));
    }
}
