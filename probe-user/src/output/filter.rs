//! Which findings a person wants to see.

use std::collections::HashSet;

use crate::{
    event::Container,
    finding::{Cause, Finding, Output},
    pods::naming::without_hostname,
};

/// What victim or culprit must be, and the cause. Of several values of one kind any may fit; an empty
/// kind fits all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Kubernetes namespaces.
    pub namespaces: Vec<String>,
    /// Names of pods, or how they begin; with or without `NAMESPACE/`.
    pub pods: Vec<String>,
    /// Names of containers, or how their ids begin.
    pub containers: Vec<String>,
    /// Inode numbers of network namespaces, and names of those that are called by a file.
    pub netns: Vec<u32>,
    pub netns_names: Vec<String>,
    pub causes: Vec<Cause>,
}

/// A filter, and what it has hidden so far.
#[derive(Debug, Default)]
pub struct Filtered {
    filter: Filter,
    hidden: HashSet<String>,
}

impl Filter {
    fn fits(&self, finding: &Finding) -> bool {
        let parties = || std::iter::once(&finding.victim).chain(&finding.culprit);
        (self.causes.is_empty() || self.causes.contains(&finding.cause))
            && parties().any(|party| {
                self.fits_pod(party.pod.as_deref(), party.netns)
                    && (party.more_containers || self.fits_container(&party.containers))
            })
    }

    /// Whether one of the containers is one of those.
    pub fn fits_container<'a>(&self, all: impl IntoIterator<Item = &'a Container>) -> bool {
        let is_asked = |one: &Container| self.containers.iter().any(|text| one.is_called(text));
        self.containers.is_empty() || all.into_iter().any(is_asked)
    }

    /// Whether a pod is one of those: all that is asked must hold for the same one.
    pub fn fits_pod(&self, pod: Option<&str>, netns: Option<u32>) -> bool {
        let full = pod.map_or("", without_hostname);
        let (namespace, name) = full.split_once('/').unwrap_or(("", full));
        let is = |wanted: &String| match wanted.split_once('/') {
            Some((of, begin)) => of == namespace && name.starts_with(begin),
            None => name.starts_with(wanted.as_str()),
        };
        (self.namespaces.is_empty() || self.namespaces.iter().any(|wanted| wanted == namespace))
            && (self.pods.is_empty() || (!full.is_empty() && self.pods.iter().any(is)))
            && self.fits_netns(full, netns)
    }
}

impl Filter {
    fn fits_netns(&self, name: &str, netns: Option<u32>) -> bool {
        (self.netns.is_empty() && self.netns_names.is_empty())
            || netns.is_some_and(|n| self.netns.contains(&n))
            || self.netns_names.iter().any(|wanted| wanted == name)
    }
}

impl Filtered {
    pub fn new(filter: Filter) -> Self {
        Self { filter, hidden: HashSet::new() }
    }

    /// Whether to show it; what is hidden is counted, each finding once.
    pub fn shows(&mut self, output: &Output) -> bool {
        let finding = output.finding();
        let shows = self.filter.fits(finding);
        if shows {
            // Its culprit was found meanwhile.
            self.hidden.remove(&finding.id);
        } else {
            self.hidden.insert(finding.id.clone());
        }
        shows
    }

    /// How many findings are hidden.
    pub fn hidden(&self) -> u64 {
        self.hidden.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    /// A finding whose victim is the client and whose culprit is the web pod.
    fn finding() -> Finding {
        let mut run = Run::new();
        run.at(0, up(CLIENT, "shop/client-0", "10.244.1.2"));
        run.at(0, up(WEB, "shop-2/web-7d4f", "10.244.4.2"));
        run.at(500, refused(CLIENT_END, ISN));
        run.at(1520, syn_again(WEB_END, 500, 1));
        run.until(9000);
        run.only().clone()
    }

    fn shows(filter: Filter) -> bool {
        Filtered::new(filter).shows(&Output::Finding(Box::new(finding())))
    }

    fn words(all: &[&str]) -> Vec<String> {
        all.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn victim_or_culprit() {
        assert!(shows(Filter::default()));
        for pods in [
            ["client-0"],
            ["client"],
            ["web"],
            ["web-7d4f"],
            ["shop/client"],
            ["shop-2/web"],
            ["shop/"],
        ] {
            assert!(shows(Filter { pods: words(&pods), ..Filter::default() }), "{pods:?}");
        }
        for pods in [["lient"], ["shop"], ["shop/web"], ["sho/client"], ["other"]] {
            assert!(!shows(Filter { pods: words(&pods), ..Filter::default() }), "{pods:?}");
        }
        assert!(shows(Filter { pods: words(&["other", "web"]), ..Filter::default() }));
    }

    #[test]
    fn everything_holds_for_the_same_party() {
        let of = |namespace: &str, pod: &str| Filter {
            namespaces: words(&[namespace]),
            pods: words(&[pod]),
            ..Filter::default()
        };
        assert!(shows(of("shop", "client")) && shows(of("shop-2", "web")));
        assert!(!shows(of("shop", "web")));
        assert!(!shows(Filter { namespaces: words(&["sho"]), ..Filter::default() }));
    }

    /// Anybody can choose a host name.
    #[test]
    fn a_host_name_fits_nothing() {
        let (name, _) = crate::pods::naming::name(7, None, None, Some("web-1"));
        let fits = |filter: Filter| filter.fits_pod(Some(&name), Some(7));
        let pods = |text| Filter { pods: words(&[text]), ..Filter::default() };
        for text in ["web", "web-1", "host", "netns:7/web", "netns:7 (host name web"] {
            assert!(!fits(pods(text)), "{text}");
        }
        assert!(!fits(Filter { namespaces: words(&["netns:7"]), ..Filter::default() }));
        assert!(fits(pods("netns:7")) && fits(Filter { netns: vec![7], ..Filter::default() }));
    }

    /// The culprit has two containers of which either may hold the socket; then its process is known.
    #[test]
    fn containers_of_the_pod_or_of_the_process() {
        let container = |digit: char, name: Option<&str>| Container {
            id: digit.to_string().repeat(64),
            name: name.map(str::to_owned),
        };
        let both = [container('a', Some("web")), container('b', Some("logs"))];
        let mut known = finding();
        let shows = |finding: &Finding, text: &str| {
            let containers = words(&[text]);
            let filter = Filter { containers, ..Filter::default() };
            Filtered::new(filter).shows(&Output::Finding(Box::new(finding.clone())))
        };
        assert!(!shows(&known, "web"), "none is known");
        if let Some(culprit) = &mut known.culprit {
            culprit.containers = both.to_vec();
        }
        let id = format!("containerd://{}", "b".repeat(64));
        for text in ["web", "logs", "aaaaaaaa", &id] {
            assert!(shows(&known, text), "{text}");
        }
        for text in ["we", "aaaaaaa", "aaaaaaaab", "", "containerd://"] {
            assert!(!shows(&known, text), "{text}");
        }
        if let Some(culprit) = &mut known.culprit {
            culprit.containers = both[..1].to_vec();
            culprit.more_containers = true;
        }
        assert!(shows(&known, "logs"), "it may be one of those that are not known");
        if let Some(culprit) = &mut known.culprit {
            culprit.more_containers = false;
        }
        assert!(shows(&known, "web") && !shows(&known, "logs"));
        let of = |pod: &str| Filter {
            pods: words(&[pod]),
            containers: words(&["web"]),
            ..Filter::default()
        };
        let fits =
            |filter: Filter| Filtered::new(filter).shows(&Output::Finding(Box::new(known.clone())));
        assert!(fits(of("shop-2/web")) && !fits(of("shop/client")), "of the same party");
    }

    #[test]
    fn namespaces_by_number_and_causes() {
        assert!(shows(Filter { netns: vec![WEB], ..Filter::default() }));
        assert!(!shows(Filter { netns: vec![DNS_A], ..Filter::default() }));
        assert!(shows(Filter { causes: vec![Cause::AcceptQueueOverflow], ..Filter::default() }));
        assert!(!shows(Filter { causes: vec![Cause::NoListener], ..Filter::default() }));
    }

    #[test]
    fn what_is_hidden_is_counted_once() {
        let filter = Filter { pods: words(&["other"]), ..Filter::default() };
        let mut filtered = Filtered::new(filter);
        let output = Output::Finding(Box::new(finding()));
        assert!(!filtered.shows(&output) && !filtered.shows(&output));
        assert_eq!(filtered.hidden(), 1);
    }
}
