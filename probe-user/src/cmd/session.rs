//! One stream of events from its source to the screen. Whether it is live or recorded makes no
//! difference from here on, so a replay prints what the live run printed.

use anyhow::Result;

use super::printer::Printer;
use crate::{
    event::{Body, Event, armed::Request},
    pipeline::Pipeline,
};

/// A stream's conclusions and where they are printed.
pub struct Session {
    pipeline: Pipeline,
    printer: Printer,
    /// What is watched has been said.
    begun: bool,
}

impl Session {
    pub fn new(pipeline: Pipeline, printer: Printer) -> Self {
        Self { pipeline, printer, begun: false }
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
        self.printer.outputs(&self.pipeline, &outputs)?;
        if !matches!(event.body, Body::Tick) {
            return Ok(());
        }
        if self.begun {
            return self.printer.status(&self.pipeline);
        }
        if !self.pipeline.header().hooks.is_empty() {
            self.begun = true;
            self.printer.header(&self.pipeline)?;
        }
        Ok(())
    }

    /// Whether what is watched has been said.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Armed hooks that would help.
    pub fn wishes(&mut self) -> Vec<Request> {
        self.pipeline.wishes()
    }

    /// The stream is at its end: what was still open, and the summary.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn end(&mut self) -> Result<()> {
        for event in self.pipeline.rest() {
            self.take(&event)?;
        }
        let outputs = self.pipeline.end();
        self.printer.outputs(&self.pipeline, &outputs)?;
        self.printer.summary(&self.pipeline)
    }
}
