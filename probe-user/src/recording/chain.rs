//! The files of one recording as one stream. Parts follow each other by their numbers, whatever order
//! they were named in; what a part tells of the time before it is left out when that was read.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{
    End, Head,
    open::Input,
    reader::{Item, Reader},
};
use crate::event::Event;

/// What comes next.
#[derive(Debug)]
pub enum Next {
    Event(Event),
    /// A file's last words.
    End(End),
    /// What a person should know.
    Notice(String),
}

/// One recording.
pub struct Chain {
    files: VecDeque<File>,
    /// The part that was read to its proper end last.
    read: Option<u32>,
    /// Whether what is being read goes on where that ended.
    goes_on: bool,
}

struct File {
    path: PathBuf,
    head: Head,
    reader: Reader<Input>,
    begun: bool,
}

impl Chain {
    /// Sorts files into recordings, in the order in which they were named.
    ///
    /// # Errors
    /// When one is no recording, or cannot be read, or when two are the same part of one.
    pub fn all(inputs: Vec<(PathBuf, Input)>) -> Result<Vec<Self>> {
        let mut chains: Vec<(String, Vec<File>)> = Vec::new();
        for (path, input) in inputs {
            let file = File::begin(path, input)?;
            let same = chains.iter_mut().find(|(run, _)| !run.is_empty() && *run == file.head.run);
            match same {
                Some((_, files)) => files.push(file),
                None => chains.push((file.head.run.clone(), vec![file])),
            }
        }
        let chain = |(_, mut files): (String, Vec<File>)| {
            files.sort_by_key(|file| file.head.part);
            let mut pairs = files.iter().zip(files.iter().skip(1));
            if let Some((a, b)) = pairs.find(|(a, b)| a.head.part == b.head.part) {
                bail!(
                    "{} and {} are the same part of one recording: leave one of them out",
                    a.path.display(),
                    b.path.display()
                );
            }
            Ok(Self { files: files.into(), read: None, goes_on: false })
        };
        chains.into_iter().map(chain).collect()
    }

    /// What to say of recordings of nodes with one name: they are played side by side.
    pub fn namesakes(chains: &[Self]) -> Vec<String> {
        let name = |chain: &Self| chain.head().map(|head| head.node.clone()).unwrap_or_default();
        let path = |chain: &Self| chain.paths().next().map(|path| path.display().to_string());
        let mut said = Vec::new();
        for (n, chain) in chains.iter().enumerate() {
            let node = name(chain);
            let before = chains.iter().take(n).find(|other| name(other) == node);
            if let (false, Some(first)) = (node.is_empty(), before.and_then(path)) {
                said.push(format!(
                    "{} is another recording of a node called {node}, as {first} is: what is in both is \
                     told twice",
                    path(chain).unwrap_or_default()
                ));
            }
        }
        said
    }

    /// What the first of its files says of itself.
    pub fn head(&self) -> Option<&Head> {
        self.files.front().map(|file| &file.head)
    }

    /// Its files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// `None` at the end.
    ///
    /// # Errors
    /// When a file is damaged, or cannot be read on.
    #[expect(clippy::should_implement_trait, reason = "an iterator's items are no results")]
    pub fn next(&mut self) -> Result<Option<Next>> {
        loop {
            let Some(file) = self.files.front_mut() else { return Ok(None) };
            if !file.begun {
                file.begun = true;
                self.goes_on =
                    self.read.is_some_and(|part| part.checked_add(1) == Some(file.head.part));
                if let Some(part) = self.read.filter(|_| !self.goes_on) {
                    let path = file.path.display();
                    return Ok(Some(Next::Notice(format!(
                        "{path}: parts before it, after part {part}, are missing"
                    ))));
                }
            }
            let item = file.reader.next().with_context(|| file.path.display().to_string())?;
            match item {
                Some(Item::Event { state: true, .. }) if self.goes_on => {}
                Some(Item::Event { event, .. }) => return Ok(Some(Next::Event(event))),
                Some(Item::Head(_)) => {}
                Some(Item::End(end)) => {
                    self.read = Some(file.head.part);
                    return Ok(Some(Next::End(end)));
                }
                Some(Item::Notice(text)) => {
                    return Ok(Some(Next::Notice(format!("{}: {text}", file.path.display()))));
                }
                None => {
                    let cut =
                        file.reader.cut().map(|cut| format!("{}: {cut}", file.path.display()));
                    self.files.pop_front();
                    if let Some(cut) = cut {
                        return Ok(Some(Next::Notice(cut)));
                    }
                }
            }
        }
    }
}

impl File {
    /// Reads as far as its head.
    fn begin(path: PathBuf, input: Input) -> Result<Self> {
        let mut reader = Reader::new(input);
        let name = || path.display().to_string();
        let head = loop {
            match reader.next().with_context(name)? {
                Some(Item::Head(head)) => break *head,
                Some(_) => {}
                None => bail!("{}", no_recording(&path, &reader)),
            }
        };
        Ok(Self { path, head, reader, begun: false })
    }
}

fn no_recording(path: &Path, reader: &Reader<Input>) -> String {
    let what = match reader.cut() {
        Some(cut) if cut.at == 0 && cut.left_over == 0 => "is empty",
        Some(cut) if cut.left_over > 0 => "is cut before what it says of itself is whole",
        _ => "is pcapng, but no recording of stallprobe: there are packets in it only",
    };
    format!("{} {what}", path.display())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::fs;

    use super::*;
    use crate::{
        correlate,
        pipeline::Pipeline,
        recording::{
            open::open,
            recorder::{Options, Recorder},
        },
        testing::*,
    };

    /// A recording of a node, and what it is called.
    fn record(path: &Path, run: &str, name: &str) {
        let mut stream = Run::with(crate::event::Node { name: name.to_owned(), ..node() }, vec![]);
        stream.until(2000);
        let mut recorder = Recorder::create(path, Options::default(), run.to_owned()).unwrap();
        let mut pipeline = Pipeline::new(correlate::Options::default());
        for event in stream.played() {
            pipeline.take(event);
            recorder.take(event, &pipeline).unwrap();
        }
        recorder.end("it was over", &pipeline).unwrap();
    }

    fn all(paths: &[&Path]) -> Result<Vec<Chain>> {
        Chain::all(
            paths.iter().map(|path| (path.to_path_buf(), open(path, None).unwrap())).collect(),
        )
    }

    #[test]
    fn one_part_is_not_read_twice() {
        let dir = tempfile::tempdir().unwrap();
        let [a, copy, other] = ["a", "copy", "other"].map(|name| dir.path().join(name));
        record(&a, "one", "x");
        record(&other, "two", "y");
        fs::copy(&a, &copy).unwrap();
        for paths in [[&*a, &*other, &*a], [&*a, &*copy, &*other]] {
            let said = all(&paths).err().unwrap().to_string();
            assert!(said.contains("are the same part of one recording"), "{said}");
        }
        assert_eq!(all(&[&a, &other]).unwrap().len(), 2);
    }

    #[test]
    fn two_recordings_of_one_node_are_said() {
        let dir = tempfile::tempdir().unwrap();
        let [a, again, other] = ["a", "again", "other"].map(|name| dir.path().join(name));
        record(&a, "one", "x");
        record(&again, "two", "x");
        record(&other, "three", "y");
        let said = Chain::namesakes(&all(&[&a, &other, &again]).unwrap());
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("again is another recording of a node called x"), "{said:?}");
        assert!(Chain::namesakes(&all(&[&a, &other]).unwrap()).is_empty());
    }
}
