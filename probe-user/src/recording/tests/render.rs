//! A recording read to its end and shown in every way there is, for tests and for the fuzzer: a hostile
//! one must give no panic, no line with control sequences and no JSON that is none.

use crate::{
    correlate::Options,
    finding::Output,
    output::{
        event,
        json::Json,
        text::{Text, status_line},
    },
    pipeline::Pipeline,
    recording::reader::{Item, Reader},
};

/// All that was said.
#[derive(Default)]
pub struct Shown {
    pub text: String,
    pub json: String,
    pub events: usize,
}

pub fn render(bytes: &[u8]) -> Shown {
    let mut reader = Reader::new(bytes);
    let mut pipeline = Pipeline::new(Options::default());
    let (text, mut json) = (Text::new(80, false), Json { node: String::new() });
    let mut shown = Shown::default();
    loop {
        let event = match reader.next() {
            Ok(Some(Item::Event { event, .. })) => event,
            Ok(Some(Item::Notice(notice))) => {
                shown.line(&notice);
                continue;
            }
            Ok(Some(Item::Head(_) | Item::End(_))) => continue,
            Ok(None) => break,
            Err(err) => {
                shown.line(&err.to_string());
                continue;
            }
        };
        shown.events += 1;
        if let Some(line) = event::text(&event, &pipeline) {
            shown.line(&line);
        }
        if let Some(line) = event::json(&event, &pipeline, &json) {
            shown.json(&line);
        }
        let outputs = pipeline.take(&event);
        shown.outputs(&pipeline, &outputs, text, &json);
        if shown.events % 16 == 0 {
            json.node = pipeline.header().node.name;
            shown.state(&pipeline, text, &json);
        }
    }
    let outputs = pipeline.end();
    shown.outputs(&pipeline, &outputs, text, &json);
    shown.state(&pipeline, text, &json);
    if let Some(cut) = reader.cut() {
        shown.line(&cut.to_string());
    }
    shown
}

impl Shown {
    fn outputs(&mut self, pipeline: &Pipeline, outputs: &[Output], text: Text, json: &Json) {
        for output in outputs {
            self.line(&text.output(output, pipeline.clock()));
            self.json(&json.output(output, pipeline.clock()));
        }
    }

    fn state(&mut self, pipeline: &Pipeline, text: Text, json: &Json) {
        let (header, summary, clock) = (pipeline.header(), pipeline.summary(), pipeline.clock());
        self.line(&text.header(&header));
        self.line(&text.summary(&summary));
        self.line(&status_line(&summary.status));
        self.json(&json.header(&header, clock, summary.status.now));
        self.json(&json.status(&summary.status, clock));
        self.json(&json.lost(&summary.status, clock));
        self.json(&json.summary(&summary, clock));
    }

    fn line(&mut self, line: &str) {
        harmless(line.trim_end_matches('\n'), "\n");
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn json(&mut self, line: &str) {
        harmless(line.trim_end_matches('\n'), "");
        let value: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(value.is_ok(), "{line}");
        self.json.push_str(line);
        self.json.push('\n');
    }
}

/// Neither control sequences nor characters that turn the order of others around.
fn harmless(line: &str, allowed: &str) {
    let is_odd =
        |c: &char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let odd = line.chars().find(|c| is_odd(c) && !allowed.contains(*c));
    assert!(odd.is_none(), "{odd:?} in {line:?}");
}
