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

    /// Puts a new line before a line; behind the last one where there is no such line.
    pub fn insert(&mut self, number: usize, text: &str) {
        let at = number.saturating_sub(1).min(self.lines.len());
        if at == self.lines.len()
            && let Some(last) = self.lines.last_mut()
            && !last.bytes().ends_with(b"\n")
        {
            *last = Line::new([last.bytes(), b"\n"].concat());
        }
        self.lines.insert(at, Line::new(format!("{text}\n")));
    }

    /// Takes a line out.
    pub fn remove(&mut self, number: usize) {
        if let Some(at) = number.checked_sub(1).filter(|at| *at < self.lines.len()) {
            self.lines.remove(at);
        }
    }
}
