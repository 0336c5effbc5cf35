//! Changes of one keyword: which line of which file is to be changed so that the new value wins, and why there. Every other byte
//! stays. Writes nothing.

use thiserror::Error;

use super::document::Document;
use super::evaluate::{Setting, canonical, evaluate};
use super::line::Line;
use super::tree::{ConfigError, Place, Tree};

/// One file before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Its path.
    pub path: String,
    /// Its bytes now.
    pub before: Vec<u8>,
    /// Its bytes then.
    pub after: Vec<u8>,
    /// Why there: `/etc/ssh/sshd_config.d/50-x.conf line 3 is the first to set PermitRootLogin, and the first wins`.
    pub why: String,
}

/// Why there is no such edit. Nothing is changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EditError {
    /// The files do not make sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Neither a keyword nor a value can hold it.
    #[error("`{0}` cannot stand in sshd_config")]
    Text(String),
    /// An option of the program wins over every line.
    #[error("sshd is started with `{0}`, which wins over every line; change the options of its unit")]
    CommandLine(String),
    /// Lines that add up stand in several files.
    #[error("{keyword} is set by several files that add up ({}); edit them by hand", .at.join(", "))]
    SeveralFiles {
        /// Which.
        keyword: String,
        /// The files.
        at: Vec<String>,
    },
    /// There is no such line.
    #[error("{0} is not set by any file")]
    NotSet(String),
    /// The value would not win.
    #[error("{keyword} would not win: {by} does")]
    WouldNotWin {
        /// Which.
        keyword: String,
        /// What wins instead.
        by: String,
    },
}

/// Sets a keyword of the global section.
pub fn set(tree: &Tree, options: &[String], keyword: &str, arguments: &[String]) -> Result<Edit, EditError> {
    let text = directive_text(keyword, arguments)?;
    let settings = evaluate(tree, options, None)?;
    let canonical = canonical_owned(keyword);
    let (place, document, why) = if let Some([first, others @ ..]) = settings.get(&canonical).map(Vec::as_slice) {
        let mut document = editable(tree, first, others, keyword)?;
        document.replace(first.at.line, &text);
        // From the last, so that the numbers of the others stay true.
        others.iter().rev().for_each(|other| document.remove(other.at.line));
        let why = if others.is_empty() {
            format!("{} is the first to set {keyword}, and the first wins", first.at)
        } else {
            format!("{} is the first of the lines of {keyword}, which add up; the others go", first.at)
        };
        (first.at.clone(), document, why)
    } else {
        let mut document = tree.file(&tree.main)?.clone();
        let line = first_match(&document).unwrap_or_else(|| document.lines().count() + 1);
        document.insert(line, &text);
        let why = format!("no file sets {keyword} yet; it goes to the end of the global section of {}", tree.main);
        (Place { file: tree.main.clone(), line }, document, why)
    };
    let edit = finish(tree, &place.file, &document, why)?;
    require_winner(tree, options, &edit, &canonical, Some(arguments))?;
    Ok(edit)
}

/// Takes the lines of a keyword out of the global section, so that the default counts.
pub fn unset(tree: &Tree, options: &[String], keyword: &str) -> Result<Edit, EditError> {
    let settings = evaluate(tree, options, None)?;
    let canonical = canonical_owned(keyword);
    let Some([first, others @ ..]) = settings.get(&canonical).map(Vec::as_slice) else {
        return Err(EditError::NotSet(keyword.to_owned()));
    };
    let mut document = editable(tree, first, others, keyword)?;
    others.iter().rev().for_each(|other| document.remove(other.at.line));
    document.remove(first.at.line);
    let edit = finish(tree, &first.at.file, &document, format!("{} sets {keyword}", first.at))?;
    require_winner(tree, options, &edit, &canonical, None)?;
    Ok(edit)
}

fn canonical_owned(keyword: &str) -> String {
    canonical(&keyword.to_ascii_lowercase()).to_owned()
}

/// The file that all these lines stand in.
fn editable(tree: &Tree, first: &Setting, others: &[Setting], keyword: &str) -> Result<Document, EditError> {
    if first.at.line == 0 {
        return Err(EditError::CommandLine(first.text.clone()));
    }
    if others.iter().any(|other| other.at.file != first.at.file) {
        let at = std::iter::once(first).chain(others).map(|setting| setting.at.to_string()).collect();
        return Err(EditError::SeveralFiles { keyword: keyword.to_owned(), at });
    }
    Ok(tree.file(&first.at.file)?.clone())
}

fn finish(tree: &Tree, path: &str, document: &Document, why: String) -> Result<Edit, EditError> {
    Ok(Edit { path: path.to_owned(), before: tree.file(path)?.bytes(), after: document.bytes(), why })
}

/// Reads the edited files again: what was asked for must be what counts.
fn require_winner(
    tree: &Tree,
    options: &[String],
    edit: &Edit,
    keyword: &str,
    wanted: Option<&[String]>,
) -> Result<(), EditError> {
    let mut edited = tree.clone();
    edited.files.insert(edit.path.clone(), Document::parse(&edit.after));
    let settings = evaluate(&edited, options, None)?;
    let found = settings.get(keyword).and_then(|all| all.first());
    if found.map(|setting| setting.arguments.as_slice()) == wanted {
        return Ok(());
    }
    let by = found.map_or_else(|| "the default".to_owned(), |setting| setting.at.to_string());
    Err(EditError::WouldNotWin { keyword: keyword.to_owned(), by })
}

/// The first `Match` line of a file: what stands behind it is not global.
fn first_match(document: &Document) -> Option<usize> {
    let is_match = |line: &Line| line.directive().ok().flatten().is_some_and(|directive| directive.keyword == "match");
    document.lines().find(|(_, line)| is_match(line)).map(|(number, _)| number)
}

/// `Keyword argument "argument with blanks"`.
fn directive_text(keyword: &str, arguments: &[String]) -> Result<String, EditError> {
    let is_word = !keyword.is_empty() && keyword.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_word || arguments.is_empty() || ["match", "include"].iter().any(|other| keyword.eq_ignore_ascii_case(other)) {
        return Err(EditError::Text(keyword.to_owned()));
    }
    let mut words = vec![keyword.to_owned()];
    for argument in arguments {
        if argument.chars().any(char::is_control) || argument.contains(['"', '\\']) {
            return Err(EditError::Text(argument.clone()));
        }
        let quote = argument.is_empty() || argument.starts_with(['#', '=']) || argument.contains([' ', '\'']);
        words.push(if quote { format!("\"{argument}\"") } else { argument.clone() });
    }
    Ok(words.join(" "))
}
