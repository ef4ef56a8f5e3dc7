//! Which findings a person wants to see.

use std::collections::HashSet;

use crate::finding::{Cause, Finding, Output};

/// What victim or culprit must be, and the cause. Of several values of one kind any may fit; an empty
/// kind fits all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Kubernetes namespaces.
    pub namespaces: Vec<String>,
    /// Names of pods, or how they begin; with or without `NAMESPACE/`.
    pub pods: Vec<String>,
    /// Inode numbers of network namespaces.
    pub netns: Vec<u32>,
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
            && parties().any(|party| self.fits_pod(party.pod.as_deref(), party.netns))
    }

    /// Whether a pod is one of those: all that is asked must hold for the same one.
    pub fn fits_pod(&self, pod: Option<&str>, netns: Option<u32>) -> bool {
        let full = pod.unwrap_or_default();
        let (namespace, name) = full.split_once('/').unwrap_or(("", full));
        let is = |wanted: &String| match wanted.split_once('/') {
            Some((of, begin)) => of == namespace && name.starts_with(begin),
            None => name.starts_with(wanted.as_str()),
        };
        (self.namespaces.is_empty() || self.namespaces.iter().any(|wanted| wanted == namespace))
            && (self.pods.is_empty() || (!full.is_empty() && self.pods.iter().any(is)))
            && (self.netns.is_empty() || netns.is_some_and(|n| self.netns.contains(&n)))
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
