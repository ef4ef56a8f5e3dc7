//! What a person sees while xtask works: one line a step, on stderr.
use std::{
    io::{IsTerminal as _, Write as _},
    panic, thread,
    time::{Duration, Instant},
};

/// One line about something the reader should know.
pub fn note(text: &str) {
    say(&format!("xtask: {text}"));
}

#[expect(clippy::print_stderr, reason = "xtask talks to a person on stderr")]
fn say(line: &str) {
    eprintln!("{line}");
}

/// A step that takes a while: its name at once, how long it took at the end.
pub struct Step {
    what: String,
    start: Instant,
    shown: Option<Instant>,
}

impl Step {
    pub fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        note(&format!("{what} ..."));
        Self { what, start: Instant::now(), shown: None }
    }

    /// Shows how far it is, on a terminal only, at most ten times a second.
    pub fn at(&mut self, progress: &str) {
        let mut stderr = std::io::stderr();
        let recent = |at: Instant| at.elapsed() < Duration::from_millis(100);
        if stderr.is_terminal() && !self.shown.is_some_and(recent) {
            // A terminal that went away is no reason to stop.
            let _shown = write!(stderr, "\r\x1b[Kxtask: {} {progress}\r", self.what);
            let _flushed = stderr.flush();
            self.shown = Some(Instant::now());
        }
    }

    /// Does `work` and shows meanwhile how long it has been going on.
    pub fn during<T: Send>(&mut self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let worker = scope.spawn(work);
            while !worker.is_finished() {
                self.at(&format!("({} s)", self.start.elapsed().as_secs()));
                thread::sleep(Duration::from_millis(10));
            }
            worker.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    pub fn done(self, result: &str) {
        if self.shown.is_some() {
            let _cleared = write!(std::io::stderr(), "\x1b[K");
        }
        let seconds = self.start.elapsed().as_secs_f64();
        note(&format!("{}: {result} ({seconds:.1} s)", self.what));
    }
}

/// Bytes as a person reads them.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
