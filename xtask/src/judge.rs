//! Whether a boot's result counts, is none, or is bad news whatever the command said.
use crate::{
    qemu::{Boot, Outcome},
    verdict,
};

/// The exit status of a command that ran out of time, as timeout(1) has it.
pub const TIMED_OUT: i32 = 124;
/// The exit status when no boot reached a verdict that can be trusted.
pub const NO_VERDICT: i32 = 125;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// The command's status counts, with what a reader should know of it.
    Counts { status: i32, remark: Option<String> },
    /// The machine failed, not what ran in it: boot again.
    Again(String),
    /// Not to be run again: what ran in the machine may have broken it.
    Broken { status: i32, why: String },
}

/// Judges a boot by how it ended, what its console said and what the lab printed. A failed case is
/// never run again, nor one that may have crashed the kernel: our programs run there.
pub fn judge(boot: &Boot, output: &[u8]) -> Judgement {
    let output = String::from_utf8_lossy(output);
    let case = |line: &&str| line.starts_with("case ") && line.contains(" ... ");
    let began = output.lines().any(|line| case(&line));
    let failed = output.lines().any(|line| case(&line) && line.contains(" ... FAILED"));
    if let Some(crash) = boot.crash.as_ref().filter(|_| began) {
        if crash.of_qemu && !failed {
            return Judgement::Again(format!("the emulation went wrong ({})", crash.line));
        }
        if !crash.of_qemu {
            let status = match boot.outcome {
                Outcome::Finished { status, .. } if status != 0 => status,
                Outcome::TimedOut => TIMED_OUT,
                Outcome::Finished { .. } | Outcome::Died(_) => NO_VERDICT,
            };
            let why = format!("the kernel crashed while the lab ran: {}", crash.line);
            return Judgement::Broken { status, why };
        }
    }
    match &boot.outcome {
        Outcome::Finished { status, guest, here } => {
            let clock = verdict::clock_is_off(*guest, *here)
                .then(|| format!("{} s in {} s", guest.as_secs(), here.as_secs()));
            match clock {
                Some(clock) if *status == 0 => {
                    Judgement::Again(format!("the virtual machine's clock went {clock}"))
                }
                clock => Judgement::Counts {
                    status: *status,
                    remark: clock.map(|clock| format!("its clock ran wrong: {clock}")),
                },
            }
        }
        Outcome::TimedOut => Judgement::Counts { status: TIMED_OUT, remark: None },
        Outcome::Died(words) => {
            let why = format!("the virtual machine died before its verdict ({words})");
            if failed {
                Judgement::Broken { status: NO_VERDICT, why }
            } else {
                Judgement::Again(why)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::verdict::Crash;

    const FINE: &[u8] = b"case a ... ok (1.0 s)\r\n";
    const FAILED: &[u8] = b"case a ... ok (1.0 s)\ncase b ... FAILED: no (1.0 s)\n";

    fn finished(status: i32, guest: u64) -> Boot {
        let (guest, here) = (Duration::from_secs(guest), Duration::from_secs(100));
        Boot { outcome: Outcome::Finished { status, guest, here }, crash: None }
    }

    fn died() -> Boot {
        Boot { outcome: Outcome::Died("gone".to_owned()), crash: None }
    }

    fn crashed(boot: Boot, of_qemu: bool) -> Boot {
        let line = "Oops: 0002".to_owned();
        Boot { crash: Some(Crash { text: line.clone(), line, of_qemu }), ..boot }
    }

    fn broken(boot: &Boot, output: &[u8]) -> Option<i32> {
        match judge(boot, output) {
            Judgement::Broken { status, .. } => Some(status),
            _ => None,
        }
    }

    fn again(boot: &Boot, output: &[u8]) -> bool {
        matches!(judge(boot, output), Judgement::Again(_))
    }

    #[test]
    fn failed_cases_stay_failed_when_the_clock_was_wrong() {
        let counts = |status, remark| Judgement::Counts { status, remark };
        assert_eq!(judge(&finished(0, 100), FINE), counts(0, None));
        assert_eq!(judge(&finished(1, 100), FAILED), counts(1, None));
        assert!(again(&finished(0, 300), FINE));
        let remark = "its clock ran wrong: 300 s in 100 s".to_owned();
        assert_eq!(judge(&finished(1, 300), FAILED), counts(1, Some(remark)));
        let late = Boot { outcome: Outcome::TimedOut, crash: None };
        assert_eq!(judge(&late, FAILED), counts(TIMED_OUT, None));
    }

    #[test]
    fn a_machine_that_died_is_booted_again_unless_a_case_had_failed() {
        assert!(again(&died(), b"") && again(&died(), FINE));
        assert_eq!(broken(&died(), FAILED), Some(NO_VERDICT));
    }

    #[test]
    fn a_crash_once_cases_ran_is_a_failure() {
        assert!(again(&crashed(died(), false), b"case a\nlab starts\n"));
        for output in [FINE, FAILED] {
            assert_eq!(broken(&crashed(died(), false), output), Some(NO_VERDICT));
            assert_eq!(broken(&crashed(finished(0, 100), false), output), Some(NO_VERDICT));
            assert_eq!(broken(&crashed(finished(1, 100), false), output), Some(1));
        }
    }

    #[test]
    fn a_crash_of_the_emulation_is_not() {
        assert!(again(&crashed(died(), true), FINE));
        assert!(again(&crashed(finished(0, 100), true), FINE));
        assert_eq!(broken(&crashed(died(), true), FAILED), Some(NO_VERDICT));
        assert!(matches!(
            judge(&crashed(finished(1, 100), true), FAILED),
            Judgement::Counts { status: 1, .. }
        ));
    }
}
