//! A recording redacted, written anew and reported, for tests and for the fuzzer: of a hostile one, too,
//! what is written can be read, and a report has no tags but its own.

use crate::{
    output::filter::Filter,
    recording::{
        End, Head,
        reader::{Item, Reader},
        writer::Writer,
    },
    redact::Redactor,
    report::{Collector, Source, markdown, page},
};

/// Gives how many events were written.
pub fn rewrite(bytes: &[u8]) -> Result<usize, std::io::Error> {
    let mut reader = Reader::new(bytes);
    let mut redactor = Redactor::new(b"a key of the tests");
    let mut writer = Writer::new(Vec::new(), &Head::default(), 0)?;
    // As recordings of two nodes: as it is, and redacted.
    let mut collector = Collector::new(2, &Filter::default());
    let (mut events, mut notices) = (0, Vec::new());
    loop {
        match reader.next() {
            Ok(Some(Item::Event { event, .. })) => {
                collector.take(0, &event);
                let event = redactor.event(event);
                collector.take(1, &event);
                writer.event(&event)?;
                events += 1;
            }
            Ok(Some(Item::Notice(notice))) => notices.push(notice),
            Ok(Some(Item::Head(_) | Item::End(_))) => {}
            Ok(None) => break,
            Err(err) => notices.push(err.to_string()),
        }
    }
    writer.end(&End::default())?;
    let left_out = read_again(&writer.into_inner(), events);
    let source = Source { name: "a\u{1b}[2J<u>".to_owned(), notices };
    let report = collector.finish(vec![source.clone(), source]);
    let (page, text) = (page(&report), markdown(&report));
    for tag in ["<script", "<img", "<iframe", "<a href=\"j", "<u>"] {
        assert!(!page.contains(tag), "{tag} in {page}");
    }
    for text in [&page, &text] {
        let odd = text.chars().find(|c| c.is_control() && *c != '\n');
        assert!(odd.is_none(), "{odd:?} in {text:?}");
    }
    Ok(events - left_out)
}

/// All that was written is read again, but what was too long for a record; gives how much that was.
fn read_again(bytes: &[u8], events: usize) -> usize {
    let mut reader = Reader::new(bytes);
    let (mut again, mut left_out) = (0, None);
    loop {
        match reader.next() {
            Ok(Some(Item::Event { .. })) => again += 1,
            Ok(Some(Item::End(end))) => left_out = usize::try_from(end.left_out).ok(),
            Ok(Some(Item::Notice(notice))) => assert!(notice.is_empty(), "{notice}"),
            Ok(Some(Item::Head(_))) => {}
            Ok(None) => break,
            Err(err) => assert!(err.to_string().is_empty(), "{err}"),
        }
    }
    assert!(reader.cut().is_none());
    let left_out = left_out.unwrap_or(events);
    assert_eq!(again + left_out, events, "{left_out} left out");
    left_out
}
