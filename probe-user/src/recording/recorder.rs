//! Takes the stream as it was put in order, with what was concluded, and writes it: one file, or parts
//! of which the newest are kept.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{
    End, GOES_ON, Head,
    file::{Part, Target},
    memory::Memory,
    packets::{Packet, Packets},
    writer::{self, Writer},
};
use crate::{
    correlate,
    event::{Body, Event},
    pipeline::{Pipeline, Summary},
    redact::Redactor,
};

/// What was seen is in the file after this many nanoseconds of the stream. With the time to the next tick,
/// which is 100 ms away at most, it is within a second.
const FLUSH: u64 = 800_000_000;

/// How a recording is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Bytes after which a file ends.
    pub max_size: Option<u64>,
    /// How many files of that size are kept; `None`: one, and then no more.
    pub rotate: Option<u32>,
    /// Bytes of each packet; 0: all there are.
    pub snaplen: u32,
    pub compress: bool,
    /// With what names are replaced; `None`: they are not.
    pub redact: Option<Vec<u8>>,
}

/// The stream with other names, and what follows from that: in words with those names.
struct Redacted {
    redactor: Redactor,
    pipeline: Pipeline,
}

/// Whether there is room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Left,
    /// The file has the size it may have: the recording is over.
    None,
}

/// A recording that is being written.
pub struct Recorder {
    options: Options,
    target: Target,
    /// Begun with the first event that says what the node is.
    writer: Option<Writer<Part>>,
    redacted: Option<Box<Redacted>>,
    /// Opened before anything else is done: what cannot be written is said at once.
    opened: Option<Part>,
    /// Tells the parts of one recording from those of another.
    run: String,
    number: u32,
    kept: VecDeque<PathBuf>,
    memory: Memory,
    packets: Packets,
    /// Events that came before the node was known.
    early: Vec<Event>,
    flushed: u64,
    /// Bytes of the parts that are done.
    done: u64,
}

impl Recorder {
    /// Opens the file, or the first of its parts. `run` is a name that no other recording has.
    ///
    /// # Errors
    /// When it cannot be written, or parts are to be written to standard output.
    pub fn create(path: &Path, options: Options, run: String) -> Result<Self> {
        let target = Target::new(path);
        if options.rotate.is_some() && target == Target::Stdout {
            bail!("standard output has no parts: --rotate needs a file");
        }
        let redacted = options.redact.as_deref().map(|secret| {
            Box::new(Redacted {
                redactor: Redactor::new(secret),
                pipeline: Pipeline::new(correlate::Options::default()),
            })
        });
        let mut recorder = Self {
            redacted,
            options,
            target,
            writer: None,
            opened: None,
            run,
            number: 0,
            kept: VecDeque::new(),
            memory: Memory::default(),
            packets: Packets::default(),
            early: Vec::new(),
            flushed: 0,
            done: 0,
        };
        recorder.opened = Some(recorder.open()?);
        Ok(recorder)
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.done + self.writer.as_ref().map_or(0, |writer| writer.get_ref().size())
    }

    /// Takes the next event in order of time, which `pipeline` has just taken.
    ///
    /// # Errors
    /// When the file cannot be written: the recording is over, and what is in the file can be read.
    pub fn take(&mut self, event: &Event, pipeline: &Pipeline) -> Result<Room> {
        let Some(mut redacted) = self.redacted.take() else { return self.write(event, pipeline) };
        let event = redacted.redactor.event(event.clone());
        redacted.pipeline.take(&event);
        let room = self.write(&event, &redacted.pipeline);
        self.redacted = Some(redacted);
        room
    }

    fn write(&mut self, event: &Event, pipeline: &Pipeline) -> Result<Room> {
        // Only a later part begins with it.
        if self.options.rotate.is_some() {
            self.memory.note(event);
        }
        match (&mut self.writer, &event.body) {
            (None, Body::Node(_)) => {
                self.early.push(event.clone());
                self.begin(pipeline)?;
            }
            (None, _) => self.early.push(event.clone()),
            (Some(writer), _) => writer.event(event)?,
        }
        let packets = self.packets.take(event, pipeline);
        self.add(&packets)?;
        if matches!(event.body, Body::Tick) && event.ts.saturating_sub(self.flushed) >= FLUSH {
            self.flushed = event.ts;
            return self.flush(pipeline);
        }
        Ok(Room::Left)
    }

    /// The stream is at its end, and `pipeline` has said what it knows.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn end(mut self, how: &str, pipeline: &Pipeline) -> Result<u64> {
        let packets = match self.redacted.take() {
            Some(mut redacted) => {
                redacted.pipeline.end();
                self.packets.finish(&redacted.pipeline)
            }
            None => self.packets.finish(pipeline),
        };
        self.add(&packets)?;
        self.close(how, &pipeline.summary())?;
        Ok(self.done)
    }

    fn add(&mut self, packets: &[Packet]) -> Result<()> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        for packet in packets {
            writer.packet(&writer::Packet {
                netns: packet.netns,
                name: &packet.name,
                description: &packet.description,
                wall: packet.wall,
                bytes: &packet.bytes,
                length: packet.length,
                comments: std::slice::from_ref(&packet.comment),
            })?;
        }
        Ok(())
    }

    fn flush(&mut self, pipeline: &Pipeline) -> Result<Room> {
        let Some(writer) = &mut self.writer else { return Ok(Room::Left) };
        writer.flush()?;
        let full = self.options.max_size.is_some_and(|max| writer.get_ref().size() >= max);
        if !full {
            return Ok(Room::Left);
        }
        if self.options.rotate.is_none() {
            self.close("it had the size that was asked for", &pipeline.summary())?;
            return Ok(Room::None);
        }
        self.close(GOES_ON, &pipeline.summary())?;
        self.opened = Some(self.open()?);
        self.begin(pipeline)?;
        Ok(Room::Left)
    }

    /// Opens the next file; the oldest one there is no room for is removed.
    fn open(&mut self) -> Result<Part> {
        self.number += 1;
        let (Some(keep), Target::File(path)) = (self.options.rotate, &self.target) else {
            return Part::create(&self.target, self.options.compress);
        };
        let path = part_path(path, self.number);
        let part = Part::create(&Target::File(path.clone()), self.options.compress)?;
        self.kept.push_back(path);
        if self.kept.len() > keep as usize
            && let Some(oldest) = self.kept.pop_front()
            && let Err(err) = std::fs::remove_file(&oldest)
            && err.kind() != std::io::ErrorKind::NotFound
        {
            return Err(err).with_context(|| format!("cannot remove {}", oldest.display()));
        }
        Ok(part)
    }

    /// Writes what a file begins with.
    fn begin(&mut self, pipeline: &Pipeline) -> Result<()> {
        let Some(part) = self.opened.take() else { return Ok(()) };
        let first = self.number == 1;
        let early = std::mem::take(&mut self.early);
        let node = early.iter().find_map(|event| match &event.body {
            Body::Node(node) => Some(&**node),
            _ => None,
        });
        let node = node.unwrap_or_else(|| pipeline.correlator().node());
        let head = Head {
            version: node.version.clone(),
            node: node.name.clone(),
            kernel: node.kernel.clone(),
            machine: node.machine.clone(),
            run: self.run.clone(),
            part: self.number,
            ..Head::default()
        };
        let mut writer = Writer::new(part, &head, self.options.snaplen)?;
        if first {
            for event in &early {
                writer.event(event)?;
            }
        } else {
            let known: Vec<_> = self.memory.events().cloned().collect();
            writer.state(&known)?;
        }
        writer.flush()?;
        self.writer = Some(writer);
        Ok(())
    }

    fn close(&mut self, how: &str, summary: &Summary) -> Result<()> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        let status = &summary.status;
        writer.end(&End {
            how: how.to_owned(),
            late: summary.late,
            early: summary.early,
            lost: status.lost,
            limited: status.limited,
            missed: status.missed,
            ..End::default()
        })?;
        self.done += writer.into_inner().finish()?;
        Ok(())
    }
}

/// `trace.00002.pcapng` of `trace.pcapng`, `trace.00002.pcapng.zst` of `trace.pcapng.zst`.
fn part_path(path: &Path, number: u32) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let at = name.find(".pcapng").or_else(|| name.rfind('.').filter(|at| *at > 0));
    let (stem, end) = name.split_at(at.unwrap_or(name.len()));
    path.with_file_name(format!("{stem}.{number:05}{end}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_numbered_before_the_suffix() {
        let part = |name: &str| part_path(Path::new(name), 2).display().to_string();
        assert_eq!(part("/tmp/trace.pcapng"), "/tmp/trace.00002.pcapng");
        assert_eq!(part("trace.pcapng.zst"), "trace.00002.pcapng.zst");
        assert_eq!(part("my.trace.pcap"), "my.trace.00002.pcap");
        assert_eq!(part("trace"), "trace.00002");
        assert_eq!(part(".hidden"), ".hidden.00002");
    }
}
