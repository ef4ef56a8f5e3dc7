//! The files of one recording as one stream. Parts follow each other by their numbers, whatever order
//! they were named in; what a part tells of the time before it is left out when that was read.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{
    End, GOES_ON, Head,
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
    /// Why the part after its last file cannot be read, though it is there.
    unread: Option<String>,
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
    /// It said so at its end.
    goes_on: bool,
}

impl Chain {
    /// Sorts files into recordings, in the order in which they were named. A part that has no head yet,
    /// as when its stallprobe was killed just then, is missing, and the others are read.
    ///
    /// # Errors
    /// When one is no recording, or cannot be read, or when two are the same part of one.
    pub fn all(inputs: Vec<(PathBuf, Input)>) -> Result<Vec<Self>> {
        let mut chains: Vec<(String, Vec<File>)> = Vec::new();
        let mut unread = Vec::new();
        for (path, input) in inputs {
            let file = match File::begin(path, input)? {
                Begun::Whole(file) => *file,
                Begun::Cut(path, why) => {
                    unread.push((path, why));
                    continue;
                }
            };
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
            Ok(Self { files: files.into(), unread: None, read: None, goes_on: false })
        };
        let mut chains = chains.into_iter().map(chain).collect::<Result<Vec<Self>>>()?;
        for (path, why) in unread {
            let mut before = chains.iter_mut();
            let why = format!("{} {why}", path.display());
            match before.find(|chain| chain.next_part().is_some_and(|next| next == path)) {
                Some(chain) => chain.unread = Some(why),
                None => bail!("{why}"),
            }
        }
        Ok(chains)
    }

    /// Where the part after its last file would be.
    fn next_part(&self) -> Option<PathBuf> {
        let File { path, head, .. } = self.files.back()?;
        let name = path.file_name()?.to_str()?;
        let number = |part: u32| format!(".{part:05}");
        let next = name.replacen(&number(head.part), &number(head.part.checked_add(1)?), 1);
        (next != name).then(|| path.with_file_name(next))
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
                    file.goes_on = end.how == GOES_ON;
                    return Ok(Some(Next::End(end)));
                }
                Some(Item::Notice(text)) => {
                    return Ok(Some(Next::Notice(format!("{}: {text}", file.path.display()))));
                }
                None => {
                    let Some(file) = self.files.pop_front() else { return Ok(None) };
                    let cut = file.reader.cut().map(|cut| cut.to_string());
                    let cut = match cut {
                        None if self.files.is_empty() => file.missing(self.unread.take()),
                        cut => cut,
                    };
                    if let Some(cut) = cut {
                        return Ok(Some(Next::Notice(format!("{}: {cut}", file.path.display()))));
                    }
                }
            }
        }
    }
}

/// A file of which the beginning was read.
enum Begun {
    Whole(Box<File>),
    /// It may be part of a recording, and why it cannot be read.
    Cut(PathBuf, &'static str),
}

impl File {
    /// Reads as far as its head.
    fn begin(path: PathBuf, input: Input) -> Result<Begun> {
        let mut reader = Reader::new(input);
        let head = loop {
            match reader.next().with_context(|| path.display().to_string())? {
                Some(Item::Head(head)) => break *head,
                Some(_) => {}
                None => {
                    let why = match reader.cut() {
                        Some(cut) if cut.at == 0 && cut.left_over == 0 => "is empty",
                        Some(cut) if cut.left_over > 0 => {
                            "is cut before what it says of itself is whole"
                        }
                        _ => bail!(
                            "{} is pcapng, but no recording of stallprobe: there are packets in it \
                             only",
                            path.display()
                        ),
                    };
                    return Ok(Begun::Cut(path, why));
                }
            }
        };
        Ok(Begun::Whole(Box::new(Self { path, head, reader, begun: false, goes_on: false })))
    }

    /// What is to be said when it is the last file, and yet went on.
    fn missing(&self, unread: Option<String>) -> Option<String> {
        let goes_on = || self.goes_on.then(|| "the next part is not here".to_owned());
        Some(format!("what came after it is missing: {}", unread.or_else(goes_on)?))
    }
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
