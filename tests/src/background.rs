//! A thread that does something beside a case for as long as it is wanted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow, bail};

/// Ends with the case in any event: dropping it stops the thread and waits for it.
pub struct Background {
    what: &'static str,
    wanted: Wanted,
    thread: Option<JoinHandle<Result<()>>>,
}

/// Whether the thread is to go on.
#[derive(Clone)]
pub struct Wanted(Arc<AtomicBool>);

impl Wanted {
    pub fn still(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Background {
    /// `body` goes on until it is wanted no more; if it ends before, that is an error.
    pub fn start(
        what: &'static str,
        body: impl FnOnce(&Wanted) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let wanted = Wanted(Arc::new(AtomicBool::new(true)));
        let seen = wanted.clone();
        let thread = thread::Builder::new()
            .spawn(move || body(&seen))
            .with_context(|| format!("cannot start the thread: {what}"))?;
        Ok(Self { what, wanted, thread: Some(thread) })
    }

    /// For loops that wait for what it brings about: an error if it has ended, with its own reason.
    pub fn check(&mut self) -> Result<()> {
        if self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return Ok(());
        }
        self.end()?;
        bail!("{} ended too early", self.what)
    }

    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.wanted.0.store(false, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let result = thread.join().map_err(|_| anyhow!("{} panicked", self.what))?;
        result.with_context(|| self.what.to_owned())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // On this path the case has failed of something else already.
        let _ = self.end();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::sync::mpsc;

    use super::*;
    use crate::wait::{SOON, until};

    #[test]
    fn a_thread_is_stopped_and_waited_for() {
        let (sender, ended) = mpsc::channel();
        let start = || {
            let sender = sender.clone();
            Background::start("counting", move |wanted| {
                while wanted.still() {
                    thread::yield_now();
                }
                sender.send(()).context("nobody listens")
            })
        };
        let mut counting = start().unwrap();
        counting.check().unwrap();
        counting.stop().unwrap();
        ended.try_recv().unwrap();
        drop(start().unwrap());
        ended.try_recv().unwrap();
    }

    #[test]
    fn one_that_ends_by_itself_says_why() {
        let why = |result: Result<()>| {
            let mut thread = Background::start("counting", move |_| result).unwrap();
            let why = until("it has ended", SOON, || Ok(thread.check().err())).unwrap();
            format!("{why:#}")
        };
        assert_eq!(why(Err(anyhow!("no numbers"))), "counting: no numbers");
        assert_eq!(why(Ok(())), "counting ended too early");
    }
}
