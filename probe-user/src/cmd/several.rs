//! The recordings of several nodes as one stream: what happened at the same time stands together, and one
//! node's cause may explain the other's stall.

use anyhow::Result;

use super::{
    printer::Printer,
    streams::{Said, Streams},
};
use crate::{
    correlate,
    event::{Body, Event},
    nodes::{Ids, Nodes},
    output::sanitize,
    pipeline::Pipeline,
    recording::chain::Chain,
};

/// Replays them to their ends.
///
/// # Errors
/// When one is damaged, or standard output cannot be written.
pub fn replay(chains: Vec<Chain>, printer: &mut Printer) -> Result<()> {
    let count = chains.len();
    for text in Chain::namesakes(&chains) {
        printer.note(&format!("stallprobe: {}", sanitize::text(&text)));
    }
    let mut nodes = Nodes::new(count, Ids::ByName, &correlate::Options::default());
    let mut begun = vec![false; count];
    let mut damage = None;
    for (node, said) in Streams::new(chains) {
        match said {
            Said::Event(event) => {
                show(&mut nodes, node, &event, printer)?;
                let Some(begun) = begun.get_mut(node) else { break };
                if matches!(event.body, Body::Tick) && !*begun && has_hooks(&nodes, node) {
                    *begun = true;
                    of(&nodes, node, printer, |printer, pipeline| printer.header(pipeline))?;
                }
            }
            Said::End(end) => {
                if let Some(pipeline) = nodes.pipeline_mut(node) {
                    pipeline.was_ordered(end.late, end.early);
                }
            }
            Said::Notice(text) => printer.note(&format!("stallprobe: {text}")),
            // What the others have is told to its end.
            Said::Damage(err) => damage = damage.or(Some(err)),
        }
    }
    for (node, output) in nodes.end() {
        of(&nodes, node, printer, |printer, pipeline| printer.outputs(pipeline, &[output]))?;
    }
    for node in 0..count {
        let Some(summary) = nodes.summary(node) else { continue };
        of(&nodes, node, printer, |printer, pipeline| printer.summary(summary, pipeline.clock()))?;
    }
    damage.map_or(Ok(()), Err)
}

fn show(nodes: &mut Nodes, node: usize, event: &Event, printer: &mut Printer) -> Result<()> {
    of(nodes, node, printer, |printer, pipeline| printer.event(pipeline, event))?;
    for (node, output) in nodes.take(node, event) {
        of(nodes, node, printer, |printer, pipeline| printer.outputs(pipeline, &[output]))?;
    }
    Ok(())
}

fn has_hooks(nodes: &Nodes, node: usize) -> bool {
    nodes.pipeline(node).is_some_and(|pipeline| !pipeline.header().hooks.is_empty())
}

/// Prints in the name of a node.
fn of(
    nodes: &Nodes,
    node: usize,
    printer: &mut Printer,
    print: impl FnOnce(&mut Printer, &Pipeline) -> Result<()>,
) -> Result<()> {
    let Some(pipeline) = nodes.pipeline(node) else { return Ok(()) };
    printer.speak_of(nodes.label(node));
    print(printer, pipeline)
}
