//! One stream of events from its source to the screen, and to a recording. Whether it is live or
//! recorded makes no difference from here on, so a replay prints what the live run printed.

use anyhow::{Result, bail};

use super::printer::Printer;
use crate::{
    event::{Body, Event, armed::Request},
    output::size,
    pipeline::Pipeline,
    recording::recorder::{Recorder, Room},
};

/// A stream's conclusions and where they go.
pub struct Session {
    pipeline: Pipeline,
    printer: Printer,
    recording: Recording,
    /// What is watched has been said.
    begun: bool,
}

enum Recording {
    None,
    On(Box<Recorder>),
    /// It has the size it was to have.
    Full,
    Failed,
}

impl Session {
    pub fn new(pipeline: Pipeline, printer: Printer, recorder: Option<Recorder>) -> Self {
        let recording = recorder.map_or(Recording::None, |it| Recording::On(Box::new(it)));
        Self { pipeline, printer, recording, begun: false }
    }

    /// Takes an event that may be a little out of order.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn push(&mut self, event: Event) -> Result<()> {
        for event in self.pipeline.order(event) {
            self.take(&event)?;
        }
        Ok(())
    }

    /// Takes the next event in order of time, and prints what follows from it. With a tick comes what
    /// is watched, once, and later how it goes.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn take(&mut self, event: &Event) -> Result<()> {
        self.printer.event(&self.pipeline, event)?;
        let outputs = self.pipeline.take(event);
        self.record(event);
        self.printer.outputs(&self.pipeline, &outputs)?;
        if !matches!(event.body, Body::Tick) {
            return Ok(());
        }
        if self.begun {
            let beside = match &self.recording {
                Recording::On(recorder) => format!("; {} recorded", size(recorder.size())),
                _ => String::new(),
            };
            return self.printer.status(&self.pipeline, &beside);
        }
        if !self.pipeline.header().hooks.is_empty() {
            self.begun = true;
            self.printer.speak_of(&self.pipeline.header().node.name);
            self.printer.header(&self.pipeline)?;
        }
        Ok(())
    }

    /// Findings go on when a recording cannot.
    fn record(&mut self, event: &Event) {
        let Recording::On(recorder) = &mut self.recording else { return };
        match recorder.take(event, &self.pipeline) {
            Ok(Room::Left) => {}
            Ok(Room::None) => {
                let done = size(recorder.size());
                self.printer
                    .note(&format!("stallprobe: the recording ended: {done} were asked for"));
                self.recording = Recording::Full;
            }
            Err(err) => self.failed(&err),
        }
    }

    fn failed(&mut self, err: &anyhow::Error) {
        self.printer.note(&format!("stallprobe: the recording ended early: {err:#}"));
        self.recording = Recording::Failed;
    }

    /// Says something to whoever runs it.
    pub fn note(&mut self, text: &str) {
        self.printer.note(&format!("stallprobe: {text}"));
    }

    /// How it went when the stream was put in order, before it was recorded.
    pub fn was_ordered(&mut self, late: u64, early: u64) {
        self.pipeline.was_ordered(late, early);
    }

    /// Whether what is watched has been said.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether there was a recording and nothing more will be added to it.
    pub fn recording_is_over(&self) -> bool {
        matches!(self.recording, Recording::Full | Recording::Failed)
    }

    /// Armed hooks that would help.
    pub fn wishes(&mut self) -> Vec<Request> {
        self.pipeline.wishes()
    }

    /// The stream is at its end: what was still open, and the summary.
    ///
    /// # Errors
    /// When standard output cannot be written, or the recording could not be.
    pub fn end(&mut self, how: &str) -> Result<()> {
        let printed = self.print_end();
        // Whoever read the findings may be gone; the recording is ended all the same.
        match std::mem::replace(&mut self.recording, Recording::None) {
            Recording::On(recorder) => match recorder.end(how, &self.pipeline) {
                Ok(done) => self.printer.note(&format!("{} recorded", size(done))),
                Err(err) => self.failed(&err),
            },
            over => self.recording = over,
        }
        printed?;
        if matches!(self.recording, Recording::Failed) {
            bail!("the recording is not complete (see above)");
        }
        Ok(())
    }

    fn print_end(&mut self) -> Result<()> {
        for event in self.pipeline.rest() {
            self.take(&event)?;
        }
        let outputs = self.pipeline.end();
        self.printer.outputs(&self.pipeline, &outputs)?;
        self.printer.summary(self.pipeline.summary(), self.pipeline.clock())
    }
}
