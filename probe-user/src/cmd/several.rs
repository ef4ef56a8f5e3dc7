//! The recordings of several nodes as one stream: what happened at the same time stands together, and one
//! node's cause may explain the other's stall.

use anyhow::Result;

use super::printer::Printer;
use crate::{
    correlate,
    event::{Body, Event},
    nodes::{Merge, Nodes},
    pipeline::Pipeline,
    recording::chain::{Chain, Next},
};

/// Replays them to their ends.
///
/// # Errors
/// When one is damaged, or standard output cannot be written.
pub fn replay(chains: &mut [Chain], printer: &mut Printer) -> Result<()> {
    let mut nodes = Nodes::new(chains.len(), &correlate::Options::default());
    let mut merge = Merge::new(chains.len());
    let mut begun = vec![false; chains.len()];
    let mut damage = None;
    loop {
        while let Some(node) = merge.wants() {
            // What the others have is told to its end.
            let next = next(chains, node, &mut nodes, printer).unwrap_or_else(|err| {
                damage.get_or_insert(err);
                None
            });
            merge.put(node, next);
        }
        let Some((node, event)) = merge.take() else { break };
        show(&mut nodes, node, &event, printer)?;
        let Some(begun) = begun.get_mut(node) else { break };
        if matches!(event.body, Body::Tick) && !*begun && has_hooks(&nodes, node) {
            *begun = true;
            of(&nodes, node, printer, |printer, pipeline| printer.header(pipeline))?;
        }
    }
    for (node, output) in nodes.end() {
        of(&nodes, node, printer, |printer, pipeline| printer.outputs(pipeline, &[output]))?;
    }
    for node in 0..chains.len() {
        of(&nodes, node, printer, |printer, pipeline| printer.summary(pipeline))?;
    }
    damage.map_or(Ok(()), Err)
}

/// A node's next event; what else its recording says is told.
fn next(
    chains: &mut [Chain],
    node: usize,
    nodes: &mut Nodes,
    printer: &mut Printer,
) -> Result<Option<Event>> {
    let Some(chain) = chains.get_mut(node) else { return Ok(None) };
    while let Some(next) = chain.next()? {
        match next {
            Next::Event(event) => return Ok(Some(event)),
            Next::Notice(text) => printer.note(&format!("stallprobe: {text}")),
            Next::End(end) => {
                if let Some(pipeline) = nodes.pipeline_mut(node) {
                    pipeline.was_ordered(end.late, end.early);
                }
            }
        }
    }
    Ok(None)
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
