//! Edits of single lines of a list that may stand in several places: each named line gets other values, and every other byte stays.
//! Whether that lets somebody in is judged by who asks for it.

use std::collections::BTreeSet;

use super::edit::{Edit, EditError};
use super::keyword::spelling;
use super::line::{unwritable, written};
use super::tree::{Place, Tree};

/// A line, and its values to be.
pub type Changed = (Place, Vec<String>);

/// The edits that give these lines of a keyword other values, one for each file.
pub fn edit_lines(tree: &Tree, keyword: &str, lines: &[Changed]) -> Result<Vec<Edit>, EditError> {
    let spelled = spelling(keyword);
    if lines.iter().any(|(at, _)| at.line == 0) {
        return Err(EditError::CommandLine(spelled));
    }
    let files: BTreeSet<&str> = lines.iter().map(|(at, _)| at.file.as_str()).collect();
    let mut edits = Vec::new();
    for path in files {
        let now = tree.file(path)?;
        let mut document = now.clone();
        let mut places = Vec::new();
        for (at, values) in lines.iter().filter(|(at, _)| at.file == path) {
            if let Some(value) = unwritable(values) {
                return Err(EditError::Text(value.clone()));
            }
            document.replace(at.line, &written(&spelled, values));
            places.push(at.to_string());
        }
        let why = format!(
            "{spelled} adds up over all its lines; of those that count for this login only {} changes",
            places.join(" and ")
        );
        let (before, after) = (now.bytes(), document.bytes());
        edits.push(Edit { path: path.to_owned(), before, after, why: why.into(), besides: Vec::new() });
    }
    Ok(edits)
}
