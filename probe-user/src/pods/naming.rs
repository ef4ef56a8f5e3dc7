//! What a network namespace is called: the best of what is known of it.

use super::{
    identity::{Id, Owner},
    netns::HOST,
};
use crate::event::NamedBy;

pub const BEFORE_HOSTNAME: &str = " (host name ";

/// The pod's name first; then what a person called it with `ip netns`; then the container's; then what
/// a program made up for `/run/netns`; then its number. All but the pod's name may still give way to a
/// better one. The last two begin with `netns:`, for they tell a person nothing. Only to these, and to a
/// pod's UID, a host name is added, in words: they stay different where two pods have the same one, and
/// nobody can give a namespace the look of a pod.
pub fn name(
    netns: u32,
    given: Option<&str>,
    owner: Option<&Owner>,
    hostname: Option<&str>,
) -> (String, NamedBy) {
    let (name, by) = match (owner, given) {
        (Some(Owner { pod: Some(pod), .. }), _) => return (pod.to_string(), NamedBy::Pod),
        (_, Some(given)) if !is_made_up(given) => return (not_host(given), NamedBy::Netns),
        (Some(owner), _) => match owner.id {
            Id::Pod(_) => (owner.name(), NamedBy::Uid),
            Id::Container(_) => return (owner.name(), NamedBy::Container),
        },
        (None, Some(given)) => (format!("netns:{given}"), NamedBy::Netns),
        (None, None) => (format!("netns:{netns}"), NamedBy::Number),
    };
    match hostname {
        Some(hostname) => (format!("{name}{BEFORE_HOSTNAME}{hostname})"), NamedBy::Hostname),
        None => (name, by),
    }
}

/// The name without a host name, which anybody can choose.
pub fn without_hostname(name: &str) -> &str {
    name.split_once(BEFORE_HOSTNAME).map_or(name, |(name, _)| name)
}

/// Whether a host name would be a part of the name.
pub fn wants_hostname(given: Option<&str>, owner: Option<&Owner>) -> bool {
    name(0, given, owner, Some("")).1 == NamedBy::Hostname
}

/// Only the node itself is called [`HOST`]: anybody can name a container so.
pub fn not_host(name: &str) -> String {
    if name == HOST { format!("netns:{name}") } else { name.to_owned() }
}

/// Names that runtimes draw: `cni-UUID` (containerd), `netns-UUID` (podman), `UUID` (CRI-O), or some
/// digits in place of the UUID.
fn is_made_up(name: &str) -> bool {
    let rest = name.strip_prefix("cni-").or_else(|| name.strip_prefix("netns-")).unwrap_or(name);
    let is_hex = rest.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    let digits = rest.bytes().filter(u8::is_ascii_hexdigit).count();
    is_hex && (digits == 32 || (digits >= 8 && rest.len() < name.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::Container, pods::identity::PodName};

    const MADE_UP: &str = "cni-0b8a9e1c-5a3f-4c6e-9d2b-7f1e2a3b4c5d";

    #[test]
    fn the_best_of_what_is_known() {
        let id = Id::Pod("0b8a".to_owned());
        let uid = Owner { id, pod: None, container: None, sandbox: None };
        let pod = PodName::new("shop", "web-1");
        let called =
            |name: &str| Some(Container { id: "c".repeat(64), name: Some(name.to_owned()) });
        let pod = Owner { pod, container: called("nginx"), ..uid.clone() };
        let id = Id::Container("c".repeat(64));
        let container = Owner { id, container: called("registry"), ..uid.clone() };
        let host = Owner { container: called(HOST), ..container.clone() };
        for (given, owner, called) in [
            (None, None, "netns:7"),
            (Some(MADE_UP), None, "netns:cni-0b8a9e1c-5a3f-4c6e-9d2b-7f1e2a3b4c5d"),
            (Some("blue"), None, "blue"),
            (Some("blue"), Some(&pod), "shop/web-1"),
            (Some(MADE_UP), Some(&pod), "shop/web-1"),
            (None, Some(&pod), "shop/web-1"),
            (Some("blue"), Some(&uid), "blue"),
            (Some(MADE_UP), Some(&uid), "pod:0b8a"),
            (Some("blue"), Some(&container), "blue"),
            (None, Some(&container), "registry"),
            (None, Some(&host), "netns:host"),
            (Some(MADE_UP), Some(&host), "netns:host"),
            (Some("host"), None, "netns:host"),
        ] {
            assert_eq!(name(7, given, owner, None).0, called);
            let (with, by) = name(7, given, owner, Some("web-1"));
            let is_weak = called.starts_with("pod:") || (owner.is_none() && called.contains([':']));
            let is_weak = is_weak && called != "netns:host";
            let expected =
                if is_weak { format!("{called} (host name web-1)") } else { called.to_owned() };
            assert_eq!((with.as_str(), by == NamedBy::Hostname), (expected.as_str(), is_weak));
            assert_eq!(without_hostname(&with), called);
            assert_eq!(wants_hostname(given, owner), is_weak);
        }
    }

    #[test]
    fn names_that_programs_draw() {
        for drawn in [
            MADE_UP,
            "netns-0b8a9e1c-5a3f-4c6e-9d2b-7f1e2a3b4c5d",
            "0b8a9e1c-5a3f-4c6e-9d2b-7f1e2a3b4c5d",
            "cni-12345678",
        ] {
            assert!(is_made_up(drawn), "{drawn}");
        }
        for chosen in ["web", "cni-blue", "cafe", "netns-1", "12345678", "dead-beef", ""] {
            assert!(!is_made_up(chosen), "{chosen}");
        }
    }
}
