//! SIGKILL of a stallprobe that records, at any moment, many times: its recording can be read, says what was
//! said live, and nothing from before the last second is missing.
//!
//! `lab kills` does so on the machine as it is, where a hundred take two minutes. It needs what stallprobe
//! needs, and changes nothing: its network is its own.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    args::Flags,
    background::Background,
    case::{EXIT_FAILED, EXIT_SKIPPED, Skip},
    cli::say,
    probe::STALLPROBE,
    recorder::{Run, Scratch, parsed, replay},
    rung::Rung,
};

/// What may be missing, in milliseconds of the stream: a flush comes each second with the next tick,
/// which is 100 ms away at most on a machine with time.
const FLUSH_MS: i64 = 1500;
/// How many are recorded beside each other on a machine as it is, and after how many lines one is killed
/// there at most: two seconds.
const AT_ONCE: usize = 2;
const LINES: u64 = 800;
/// Between two connects there, each of which gives two lines.
const PACE: Duration = Duration::from_millis(5);
/// stallprobe's exit status where its hooks cannot work.
const NO_RUNG: i32 = 3;

/// What was seen of recordings that were killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub kills: u64,
    /// Events that were said live.
    events: u64,
    /// Those of them that were replayed.
    kept: u64,
    /// Files that were not the first of their recording.
    parts: u64,
    /// The longest time of which a recording lacked events.
    missing_ms: i64,
}

impl Seen {
    fn and(self, other: Self) -> Self {
        Self {
            kills: self.kills + other.kills,
            events: self.events + other.events,
            kept: self.kept + other.kept,
            parts: self.parts + other.parts,
            missing_ms: self.missing_ms.max(other.missing_ms),
        }
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kills, events, kept, parts, missing_ms } = self;
        write!(
            f,
            "{kills} kills: {events} events, {kept} of them in the recordings, {missing_ms} ms \
             missing at most, {parts} later parts"
        )
    }
}

/// `lab kills --times NUMBER`: gives the exit status.
pub fn main(flags: &Flags) -> Result<u8> {
    let times = flags.parse("--times")?;
    let status = match on_this_machine(times) {
        Ok(seen) => {
            say(&seen.to_string())?;
            0
        }
        Err(error) => match error.downcast_ref() {
            Some(Skip(why)) => {
                say(&format!("skipped: {why}"))?;
                EXIT_SKIPPED
            }
            None => {
                say(&format!("{error:#}"))?;
                EXIT_FAILED
            }
        },
    };
    Ok(u8::try_from(status)?)
}

fn on_this_machine(times: u64) -> Result<Seen> {
    own_network()?;
    let refused = Background::start("connects that are refused", |wanted| {
        // Nobody listens there, in a network where nothing else is.
        let nobody = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9);
        while wanted.still() {
            ensure!(TcpStream::connect(nobody).is_err(), "{nobody} answers");
            thread::sleep(PACE);
        }
        Ok(())
    })?;
    can_watch()?;
    let seen = each(times, AT_ONCE, LINES)?;
    refused.stop()?;
    Ok(seen)
}

/// A network of this process' own, with a loopback device.
fn own_network() -> Result<()> {
    // SAFETY: unshare takes flags; this process has one thread.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        let why = std::io::Error::last_os_error();
        return Err(Skip(format!("no network namespace can be made here: {why}")).into());
    }
    crate::command::run("ip", &["link", "set", "lo", "up"])?;
    Ok(())
}

/// Whether any hook can be attached here.
fn can_watch() -> Result<()> {
    let mut watch = Command::new(STALLPROBE);
    watch.args(["watch", "-o", "json"]);
    let mut run = Run::start(watch)?;
    if let Err(error) = run.wait_watching() {
        return match run.child.wait().context("cannot wait for stallprobe")?.code() {
            Some(NO_RUNG) => Err(Skip(run.errors().trim_end().replace('\n', " ")).into()),
            _ => Err(error),
        };
    }
    let headers = parsed(&run.before, |line| line["type"] == "header")?;
    let mut hooks = headers.iter().filter_map(|header| header["hooks"].as_array()).flatten();
    let snapshot = Rung::Snapshot.name();
    if !hooks.any(|hook| hook["state"] == "watched" && hook["detail"] != snapshot) {
        let why = run.errors().trim_end().replace('\n', " ");
        return Err(Skip(format!("no program can be attached here: {why}")).into());
    }
    Ok(())
}

/// Kills so many recordings of what goes on, some beside each other, each after as many lines at most.
pub fn each(times: u64, at_once: usize, most: u64) -> Result<Seen> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let next = AtomicU64::new(0);
    let sum = Mutex::new(Ok(Seen::default()));
    let lane = || {
        loop {
            let round = next.fetch_add(1, Ordering::Relaxed);
            if round >= times {
                break;
            }
            let (lines, how) = (random(seed.wrapping_add(round)) % most, How::of(round));
            let seen = killed_after(lines, how)
                .with_context(|| format!("kill {round}, {how:?}, after {lines} lines"));
            let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
            match (&*sum, seen) {
                (Ok(so_far), Ok(seen)) => *sum = Ok(so_far.and(seen)),
                (Ok(_), Err(error)) => *sum = Err(error),
                (Err(_), _) => break,
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..at_once {
            scope.spawn(lane);
        }
        lane();
    });
    let seen = sum.into_inner().unwrap_or_else(PoisonError::into_inner)?;
    ensure!(seen.kills == times, "{} of {times} recordings were killed", seen.kills);
    ensure!(seen.kept > 0, "no recording has an event: {seen}");
    Ok(seen)
}

/// One step of splitmix64: numbers that follow each other give what looks random.
fn random(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a recording is written as.
#[derive(Clone, Copy, Debug)]
enum How {
    Plain,
    Compressed,
    /// In parts, as small as they may be, of which all are kept.
    Parts,
}

impl How {
    fn of(round: u64) -> Self {
        match round % 4 {
            2 => Self::Parts,
            3 => Self::Compressed,
            _ => Self::Plain,
        }
    }

    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::Compressed => &["--compress"],
            Self::Parts => &["--max-size", "100kB", "--rotate", "1000"],
        }
    }
}

fn killed_after(lines: u64, how: How) -> Result<Seen> {
    let folder = Scratch::folder("killed")?;
    let mut watch = Command::new(STALLPROBE);
    watch.args(["watch", "-o", "json", "--events"]).args(how.arguments());
    watch.arg("--record").arg(folder.0.join("killed.pcapng"));
    let mut run = Run::start(watch)?;
    run.wait_watching()?;
    let mut live = run.before.clone();
    for _ in 0..lines {
        live.push_str(&run.line()?);
    }
    run.kill()?;
    live.push_str(&run.rest());

    let files = folder.files()?;
    let files: Vec<&Path> = files.iter().map(|path| path.as_path()).collect();
    let replay = replay(&files, &["--events"])?;
    let said = String::from_utf8_lossy(&replay.stderr);
    ensure!(replay.status.success(), "the replay ended with {}: {said}", replay.status);
    ensure!(said.contains("what came after"), "that something is missing is not said: {said}");
    let events = |line: &Value| line["type"] == "event";
    let replayed: Vec<Value> = parsed(&String::from_utf8_lossy(&replay.stdout), events)?;
    let live: Vec<Value> = parsed(&live, events)?;
    let missing_ms = missing(&live, &replayed)?;
    ensure!(missing_ms <= FLUSH_MS, "{missing_ms} ms are missing of what was seen");
    let [events, kept] = [live.len(), replayed.len()].map(|count| count as u64);
    Ok(Seen { kills: 1, events, kept, parts: files.len() as u64 - 1, missing_ms })
}

/// How many milliseconds the replay lacks of what was said live, of which it must be the beginning.
fn missing(live: &[Value], replayed: &[Value]) -> Result<i64> {
    ensure!(live.len() >= replayed.len(), "more was replayed than was seen");
    if let Some((live, replayed)) = live.iter().zip(replayed).find(|(live, re)| live != re) {
        bail!("the replay says otherwise\n  live:   {live}\n  replay: {replayed}");
    }
    match (live.get(replayed.len()), live.last()) {
        (Some(missing), Some(last)) => Ok(millis(last)? - millis(missing)?),
        _ => Ok(0),
    }
}

/// Milliseconds of the day of a line's time, `2026-01-02T03:04:05.678901Z`.
fn millis(line: &Value) -> Result<i64> {
    let time = line["time"].as_str().and_then(|time| time.get(11..23));
    let fields = time.map(|time| time.split([':', '.']).map(str::parse::<i64>).collect::<Vec<_>>());
    match fields.as_deref() {
        Some([Ok(h), Ok(m), Ok(s), Ok(ms)]) => Ok(((h * 60 + m) * 60 + s) * 1000 + ms),
        _ => bail!("no time: {line}"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_recording_lacks_is_told_by_the_clock_of_the_stream() {
        let at = |ms: u64| json!({"time": format!("2026-01-02T03:04:05.{ms:03}901Z"), "n": ms});
        let live = [at(1), at(2), at(30), at(700)];
        assert_eq!(missing(&live, &live).unwrap(), 0);
        assert_eq!(missing(&live, &live[..2]).unwrap(), 670);
        assert_eq!(missing(&[], &[]).unwrap(), 0);
        // Another event, a hole, more than there was: no beginning of what was said.
        assert!(missing(&live, &[at(1), at(3)]).is_err());
        assert!(missing(&live, &[at(1), at(30)]).is_err());
        assert!(missing(&live[..2], &live).is_err());
        assert!(missing(&[at(1), json!({})], &[]).is_err());
    }

    #[test]
    fn the_worst_of_several_counts() {
        let one = Seen { kills: 1, events: 5, kept: 3, parts: 2, missing_ms: 70 };
        let two = Seen { kills: 1, events: 9, kept: 9, parts: 0, missing_ms: 0 };
        let want = Seen { kills: 2, events: 14, kept: 12, parts: 2, missing_ms: 70 };
        assert_eq!(one.and(two), want);
    }
}
