//! Whether a cause can be seen here at all: by its hooks, or why not.

use crate::{
    event::{Hook, HookState},
    finding::Cause,
};

/// What the hooks of a cause say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched<'a> {
    Yes,
    /// What it needs is not in use here; the reason.
    CannotHappen(&'a str),
    /// This hook is missing; the reason.
    CannotSee(&'a Hook, &'a str),
    /// No hook is for it.
    NoHook,
}

/// One hook that is missing is enough for not seeing it.
pub fn watched<'a>(hooks: &'a [Hook], cause: &str) -> Watched<'a> {
    let of_cause = || hooks.iter().filter(|hook| hook.causes.iter().any(|id| id == cause));
    let is_watched = |hook: &Hook| matches!(hook.state, HookState::Watched { .. });
    for hook in of_cause() {
        if let HookState::CannotSee { why } = &hook.state {
            return Watched::CannotSee(hook, why);
        }
    }
    // IPVS tells of it, or a rule: either is enough.
    let either = cause == Cause::ServiceNoBackend.id();
    let stands_in =
        |other: &Hook, hook: &Hook| is_watched(other) && (either || other.family == hook.family);
    for hook in of_cause() {
        if let HookState::CannotHappen { why } = &hook.state
            && !of_cause().any(|other| stands_in(other, hook))
        {
            return Watched::CannotHappen(why);
        }
    }
    if of_cause().next().is_none() { Watched::NoHook } else { Watched::Yes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Rung;

    fn hook(family: &str, cause: &str, state: HookState) -> Hook {
        let (name, family) = (format!("{family}_function"), family.to_owned());
        Hook { name, family, causes: vec![cause.to_owned()], state }
    }

    fn missing() -> HookState {
        HookState::CannotSee { why: "no BTF".to_owned() }
    }

    fn unused() -> HookState {
        HookState::CannotHappen { why: "ip_vs is not loaded".to_owned() }
    }

    const ON: HookState = HookState::Watched { rung: Rung::Kprobe };

    #[test]
    fn a_missing_hook_counts_more_than_one_not_in_use() {
        let id = Cause::ServiceNoBackend.id();
        let hooks = [hook("ipvs", id, unused()), hook("reject", id, missing())];
        assert_eq!(watched(&hooks, id), Watched::CannotSee(&hooks[1], "no BTF"));
        assert_eq!(watched(&hooks, "no-listener"), Watched::NoHook);
    }

    #[test]
    fn a_service_without_backends_is_told_by_ipvs_or_by_a_rule() {
        let id = Cause::ServiceNoBackend.id();
        assert_eq!(
            watched(&[hook("ipvs", id, unused()), hook("reject", id, ON)], id),
            Watched::Yes
        );
        let clash = Cause::ConntrackDnatClash.id();
        assert_eq!(
            watched(&[hook("conntrack", clash, unused()), hook("dns", clash, ON)], clash),
            Watched::CannotHappen("ip_vs is not loaded"),
            "without conntrack a query cannot clash, whoever watches it"
        );
    }
}
