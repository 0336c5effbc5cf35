//! One file of the configuration, lossless: the lines as they are. Edits change the lines they name and no other byte.

use serde::{Deserialize, Serialize};

use super::line::Line;

/// A file. Any bytes are one, and come back as they were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    lines: Vec<Line>,
}

impl Document {
    /// From the bytes of a file.
    pub fn parse(bytes: &[u8]) -> Self {
        Self { lines: bytes.split_inclusive(|byte| *byte == b'\n').map(Line::new).collect() }
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> Vec<u8> {
        self.lines.iter().flat_map(Line::bytes).copied().collect()
    }

    /// The lines with their numbers, from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &Line)> {
        (1..).zip(&self.lines)
    }

    /// A line by its number, from 1.
    pub fn line(&self, number: usize) -> Option<&Line> {
        self.lines.get(number.checked_sub(1)?)
    }

    /// Puts another text in the place of a line, which keeps its indentation. Nothing where there is no such line.
    pub fn replace(&mut self, number: usize, text: &str) {
        let Some(line) = number.checked_sub(1).and_then(|at| self.lines.get_mut(at)) else { return };
        let end = if line.bytes().ends_with(b"\r\n") { "\r\n" } else { "\n" };
        let end = if line.bytes().ends_with(b"\n") { end } else { "" };
        *line = Line::new([line.indentation(), text.as_bytes(), end.as_bytes()].concat());
    }

    /// Puts a new line before a line; behind the last one where there is no such line. A file whose last line has no end keeps it
    /// so. Taking the line out again gives the old bytes.
    pub fn insert(&mut self, number: usize, text: &str) {
        let at = number.saturating_sub(1).min(self.lines.len());
        let neighbour = self.lines.get(at.saturating_sub(1)).map_or(&b""[..], Line::bytes);
        let end = if neighbour.ends_with(b"\r\n") { "\r\n" } else { "\n" };
        let behind = at == self.lines.len();
        match self.lines.last_mut().filter(|last| behind && !last.bytes().ends_with(b"\n")) {
            Some(last) => {
                *last = Line::new([last.bytes(), b"\n"].concat());
                self.lines.push(Line::new(text));
            }
            None => self.lines.insert(at, Line::new(format!("{text}{end}"))),
        }
    }

    /// Takes a line out. Where it was the last one and had no end, the one before it has none afterwards, unless it is empty: it would be gone.
    pub fn remove(&mut self, number: usize) {
        let Some(at) = number.checked_sub(1).filter(|at| *at < self.lines.len()) else { return };
        let removed = self.lines.remove(at);
        if at == self.lines.len()
            && !removed.bytes().ends_with(b"\n")
            && let Some(last) = self.lines.last_mut()
            && let Some(without_end) = last.bytes().strip_suffix(b"\n").filter(|rest| !rest.is_empty())
        {
            *last = Line::new(without_end);
        }
    }
}
