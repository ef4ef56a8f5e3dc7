//! Prints what the pipeline gives out, as text or as JSON Lines.

use anyhow::{Context as _, Result};

use super::screen::Screen;
use crate::{
    cli::Format,
    event::Event,
    finding::Output,
    output::{
        event,
        filter::{Filter, Filtered},
        json::Json,
        text::{Text, status_line},
    },
    pipeline::{Pipeline, Summary, WallClock},
};

/// Nanoseconds between two lines of status in JSON.
const STATUS_EVERY: u64 = 10_000_000_000;

/// One format, one screen.
pub struct Printer {
    screen: Screen,
    format: Format,
    events: bool,
    filtered: Filtered,
    text: Text,
    json: Json,
    /// When the status was told last, and what was lost then.
    told: u64,
    lost: u64,
}

impl Printer {
    pub fn new(format: Format, events: bool, filter: Filter, screen: Screen) -> Self {
        Self {
            text: Text::new(screen.width, screen.colour),
            json: Json { node: String::new() },
            screen,
            format,
            events,
            filtered: Filtered::new(filter),
            told: 0,
            lost: 0,
        }
    }

    /// Prints an event, if events are asked for, before it is correlated.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn event(&mut self, pipeline: &Pipeline, event: &Event) -> Result<()> {
        if !self.events {
            return Ok(());
        }
        let line = match self.format {
            Format::Text => event::text(event, pipeline),
            Format::Json => event::json(event, pipeline, &self.json),
        };
        line.map_or(Ok(()), |line| self.out(&line))
    }

    /// Prints what was concluded, as far as the filter shows it.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn outputs(&mut self, pipeline: &Pipeline, outputs: &[Output]) -> Result<()> {
        for output in outputs {
            if !self.filtered.shows(output) {
                continue;
            }
            let text = match self.format {
                Format::Text => self.text.output(output, pipeline.clock()),
                Format::Json => self.json.output(output, pipeline.clock()),
            };
            self.out(&text)?;
        }
        Ok(())
    }

    /// What follows is of this node.
    pub fn speak_of(&mut self, node: &str) {
        if self.json.node != node {
            self.json.node = node.to_owned();
        }
    }

    /// What is watched and what cannot be seen.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn header(&mut self, pipeline: &Pipeline) -> Result<()> {
        let header = pipeline.header();
        match self.format {
            Format::Text => self.screen.note(&self.text.header(&header)),
            Format::Json => {
                let now = pipeline.status().now;
                self.out(&self.json.header(&header, pipeline.clock(), now))?;
            }
        }
        Ok(())
    }

    /// Says something to whoever runs it.
    pub fn note(&mut self, text: &str) {
        self.screen.note(text);
    }

    /// How it goes, and in text `beside` it what else does: in place on a terminal, now and then
    /// elsewhere; and at once when events are lost.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn status(&mut self, pipeline: &Pipeline, beside: &str) -> Result<()> {
        let status = pipeline.status();
        match self.format {
            Format::Text => self.screen.status(&format!("{}{beside}", status_line(&status))),
            Format::Json => {
                if status.lost > self.lost {
                    self.lost = status.lost;
                    self.out(&self.json.lost(&status, pipeline.clock()))?;
                }
                if status.now.saturating_sub(self.told) >= STATUS_EVERY {
                    self.told = status.now;
                    self.out(&self.json.status(&status, pipeline.clock()))?;
                }
            }
        }
        Ok(())
    }

    /// How the run went.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn summary(&mut self, summary: Summary, clock: WallClock) -> Result<()> {
        let summary = Summary { hidden: self.filtered.hidden(), ..summary };
        match self.format {
            Format::Text => self.screen.note(&self.text.summary(&summary)),
            Format::Json => {
                self.out(&self.json.status(&summary.status, clock))?;
                self.out(&self.json.summary(&summary, clock))?;
            }
        }
        Ok(())
    }

    fn out(&mut self, text: &str) -> Result<()> {
        self.screen.out(text).context("cannot write to standard output")
    }
}
