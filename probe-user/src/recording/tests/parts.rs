//! The parts of one recording, of which the last may have been begun when its stallprobe was killed.

use std::path::PathBuf;

use super::*;
use crate::{
    event::Body,
    recording::{
        chain::{Chain, Next},
        open::Input,
    },
};

/// A part with one event, after which there is another.
fn part(number: u32) -> Vec<u8> {
    let head = Head { run: "one".to_owned(), part: number, ..head() };
    let mut writer = Writer::new(Vec::new(), &head, 0).unwrap();
    writer.event(&Event { ts: u64::from(number), body: Body::Tick }).unwrap();
    writer.end(&End { how: GOES_ON.to_owned(), ..End::default() }).unwrap();
    writer.into_inner()
}

/// How many events there are, and what is said of the files.
fn told(files: &[(&str, &[u8])]) -> Result<(usize, Vec<String>), String> {
    let input = |&(name, bytes): &(&str, &[u8])| -> (PathBuf, Input) {
        (name.into(), Box::new(Cursor::new(bytes.to_vec())))
    };
    let chains = Chain::all(files.iter().map(input).collect()).map_err(|err| err.to_string())?;
    let (mut events, mut notices) = (0, Vec::new());
    for mut chain in chains {
        while let Some(next) = chain.next().unwrap() {
            match next {
                Next::Event(_) => events += 1,
                Next::Notice(notice) => notices.push(notice),
                Next::End(_) => {}
            }
        }
    }
    Ok((events, notices))
}

#[test]
fn a_part_that_is_not_there_is_told() {
    let (one, two, three) = (part(1), part(2), part(3));
    let [a, b, c] = ["d/a.00001.pcapng", "d/a.00002.pcapng", "d/a.00003.pcapng"];
    let missing =
        |path: &str, why: &str| vec![format!("{path}: what came after it is missing: {why}")];
    let not_here = "the next part is not here";
    assert_eq!(told(&[(b, &two), (a, &one)]), Ok((2, missing(b, not_here))));
    assert_eq!(told(&[(b, &two)]), Ok((1, missing(b, not_here))));
    let gap = format!("{c}: parts before it, after part 1, are missing");
    assert_eq!(
        told(&[(a, &one), (c, &three)]),
        Ok((2, [vec![gap], missing(c, not_here)].concat()))
    );
}

#[test]
fn a_part_that_was_only_begun_leaves_the_others_readable() {
    let (one, two) = (part(1), part(2));
    let [a, b, c] = ["d/a.00001.pcapng", "d/a.00002.pcapng", "d/a.00003.pcapng"];
    let missing = |why: &str| vec![format!("{b}: what came after it is missing: {c} {why}")];
    for whole in [[(c, &b""[..]), (a, &one), (b, &two)], [(a, &one), (b, &two), (c, b"")]] {
        assert_eq!(told(&whole), Ok((2, missing("is empty"))));
    }
    for at in [1, 40, 200] {
        let cut = told(&[(a, &one), (b, &two), (c, &part(3)[..at])]);
        assert_eq!(cut, Ok((2, missing("is cut before what it says of itself is whole"))), "{at}");
    }
    // What is not the next part is an error.
    for other in ["d/a.00002.pcapng", "d/a.00004.pcapng", "e/a.00003.pcapng", "d/b.pcapng"] {
        assert_eq!(told(&[(a, &one), (b, &two), (other, b"")]), Err(format!("{other} is empty")));
    }
    assert_eq!(told(&[(c, b"")]), Err(format!("{c} is empty")));
}
