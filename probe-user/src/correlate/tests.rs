//! Each cause and each of its look-alikes, from hand-made events.
#![expect(clippy::panic, reason = "tests")]

mod accept_queue;
mod arm;
mod arm_conntrack;
mod bounds;
mod client_ports;
mod ct_entry;
mod dnat_clash;
mod dns;
mod insert_failed;
mod ipvs_nodeport;
mod ipvs_stale;
mod left_the_node;
mod no_listener;
mod polled;
mod probe;
mod probe_steps;
mod processes;
mod service_no_backend;
mod slow_probe;
mod snat_clash;
mod snat_ports;
mod stream;
mod syn_queue;
mod table_full;

use super::unknown::{NOT_ARMED, NOT_FOLLOWED};
use crate::{
    finding::{Finding, NotNamed, Output},
    output::{json::Json, text::Text},
    testing::Run,
};

/// Everything a run said, as text for people.
fn text(run: &Run) -> String {
    let text = Text::new(100, false);
    run.out.iter().map(|o| text.output(o, run.pipeline.clock())).collect()
}

/// One output as JSON, spread over lines for reading.
fn json(run: &Run, output: &Output) -> String {
    let json = Json { node: run.pipeline.header().node.name };
    let line = json.output(output, run.pipeline.clock());
    let value: serde_json::Value = serde_json::from_str(&line).expect("a JSON line");
    serde_json::to_string_pretty(&value).expect("a JSON value")
}

/// What could not be seen for other reasons than that nothing was armed for it.
fn not_seen(found: &Finding) -> Vec<&NotNamed> {
    found.not_seen.iter().filter(|n| n.why != NOT_ARMED && n.why != NOT_FOLLOWED).collect()
}
