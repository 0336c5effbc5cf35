//! Changes of one keyword, in the global section or in a Match block: which line of which file is to be changed so that the new
//! value wins, and why there. Every other byte stays. Writes nothing.

use thiserror::Error;

use super::block::{Block, Criteria, blocks};
use super::criteria::Client;
use super::document::Document;
use super::evaluate::{Setting, Settings, evaluate, global_lines};
use super::keyword::{self, Lines, canonical, spelling};
use super::line::{Line, unwritable, written};
use super::tree::{ConfigError, Place, Tree};
use crate::text::quoted::{Quote, Text};

/// One file before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Its path.
    pub path: String,
    /// Its bytes now.
    pub before: Vec<u8>,
    /// Its bytes then; the same where there is nothing to do.
    pub after: Vec<u8>,
    /// Why there: `/etc/ssh/sshd_config.d/50-x.conf line 3 is the first to set PermitRootLogin, and the first wins`.
    pub why: Text,
    /// Who gets another value all the same, and lines that never count: one sentence each.
    pub besides: Vec<Text>,
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
    /// No keyword of that name.
    #[error("sshd has no keyword `{word}`{}", did_you_mean(.near))]
    Keyword {
        /// What was given.
        word: String,
        /// The nearest ones.
        near: Vec<String>,
    },
    /// They cannot be decided.
    #[error("{0}")]
    Criteria(String),
    /// It counts for everybody.
    #[error("{0} cannot stand in a Match block: it counts for everybody (sshd_config(5), Match)")]
    NotInMatch(String),
    /// An option of the program wins over every line.
    #[error("sshd is started with `{0}`, which wins over every line; change the options of its unit")]
    CommandLine(String),
    /// Blocks with the same criteria.
    #[error("{keyword} is set in Match blocks of several files ({}); take it out of all but one by hand", .at.join(", "))]
    SeveralFiles {
        /// Which.
        keyword: String,
        /// The lines.
        at: Vec<String>,
    },
    /// There is no such line.
    #[error("{0} is not set by any file{1}")]
    NotSet(String, String),
    /// The value would not win.
    #[error("{keyword} would not win: {by} does")]
    WouldNotWin {
        /// Which.
        keyword: String,
        /// What wins instead.
        by: String,
    },
}

impl From<EditError> for Text {
    fn from(error: EditError) -> Self {
        let words = error.to_string();
        match error {
            // These quote options and files.
            EditError::Config(_) | EditError::CommandLine(_) => Text::quote(Quote::Program, words),
            EditError::Text(_)
            | EditError::Keyword { .. }
            | EditError::Criteria(_)
            | EditError::NotInMatch(_)
            | EditError::SeveralFiles { .. }
            | EditError::NotSet(..)
            | EditError::WouldNotWin { .. } => words.into(),
        }
    }
}

/// `; did you mean A or B?`
fn did_you_mean(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(" or ")) }
}

/// Sets a keyword to these values, or takes its lines out where there are none, so that the default counts. With `criteria` (the
/// words behind `Match`) in the Match block that has exactly these, else in the global section. Lines that add up may stand in several
/// files: then each has its edit, and they belong together. `known` are keywords besides
/// those of `sshd_config(5)` that this very sshd has: what `sshd -T` prints.
pub fn edit(
    tree: &Tree,
    options: &[String],
    known: &[&str],
    criteria: Option<&str>,
    keyword: &str,
    arguments: Option<&[String]>,
) -> Result<Vec<Edit>, EditError> {
    let criteria = criteria.map(Criteria::parse).transpose().map_err(EditError::Criteria)?;
    let name = canonical(keyword);
    if keyword::find(keyword).is_none() && !known.contains(&name.as_str()) {
        let near = keyword::near(keyword).into_iter().map(str::to_owned).collect();
        return Err(EditError::Keyword { word: keyword.to_owned(), near });
    }
    if ["match", "include"].contains(&name.as_str()) {
        return Err(EditError::Text(keyword.to_owned()));
    }
    let change = Change { tree, options, spelled: spelling(keyword), keyword: name, lines: keyword::lines(keyword) };
    let wanted = arguments.map(|arguments| change.wanted(arguments)).transpose()?;
    match (criteria, wanted) {
        (None, Some(wanted)) => change.set(&wanted),
        (None, None) => change.unset(),
        (Some(_), _) if keyword::find(keyword).is_some() && !keyword::in_match(keyword) => {
            Err(EditError::NotInMatch(change.spelled))
        }
        (Some(criteria), Some(wanted)) => Ok(vec![change.set_in(&criteria, &wanted)?]),
        (Some(criteria), None) => Ok(vec![change.unset_in(&criteria)?]),
    }
}

/// What is asked, taken apart.
struct Change<'a> {
    tree: &'a Tree,
    options: &'a [String],
    /// As the manual writes it.
    spelled: String,
    /// In lower case, and never an older name.
    keyword: String,
    lines: Lines,
}

/// The lines to be: the values of each.
type Wanted = Vec<Vec<String>>;

impl Change<'_> {
    /// One line, or one for each value where a line takes one only.
    fn wanted(&self, arguments: &[String]) -> Result<Wanted, EditError> {
        if arguments.is_empty() {
            return Err(EditError::Text(self.spelled.clone()));
        }
        if let Some(argument) = unwritable(arguments) {
            return Err(EditError::Text(argument.clone()));
        }
        if self.lines != Lines::AddEach {
            return Ok(vec![arguments.to_vec()]);
        }
        let mut wanted = Wanted::new();
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            // `sshd_config(5)`, `ListenAddress ADDRESS rdomain DOMAIN`.
            match wanted.last_mut().filter(|_| word.eq_ignore_ascii_case("rdomain")) {
                Some(line) => line.extend([word.clone()].into_iter().chain(words.next().cloned())),
                None => wanted.push(vec![word.clone()]),
            }
        }
        Ok(wanted)
    }

    /// `Keyword value "value with blanks"`.
    fn text(&self, arguments: &[String]) -> String {
        written(&self.spelled, arguments)
    }

    /// Whether a line is among those that the wanted ones take the place of.
    fn is_ours(&self, setting: &Setting, wanted: Option<&Wanted>) -> bool {
        let name = wanted.and_then(|wanted| wanted.first()?.first());
        match self.lines {
            Lines::AddNamed => name.is_none_or(|name| setting.arguments.first() == Some(name)),
            Lines::First | Lines::Add | Lines::AddEach => true,
        }
    }

    /// The lines that count and that the wanted ones take the place of.
    fn ours(&self, settings: &Settings, wanted: Option<&Wanted>) -> Vec<Setting> {
        let all = settings.get(&self.keyword).into_iter().flatten();
        all.filter(|setting| self.is_ours(setting, wanted)).cloned().collect()
    }

    fn set(&self, wanted: &Wanted) -> Result<Vec<Edit>, EditError> {
        let settings = evaluate(self.tree, self.options, None)?;
        let now = self.ours(&settings, Some(wanted));
        let edits = if let [first, others @ ..] = now.as_slice() {
            let (at, keyword) = (&first.at, &self.spelled);
            let why = match (self.lines, others) {
                (Lines::First, _) => format!("{at} is the first to set {keyword}, and the first wins"),
                (_, []) => format!("{at} sets {keyword}"),
                _ => format!(
                    "{at} is the first of the lines of {keyword}, which add up; the others go: {}",
                    places(&others.iter().collect::<Vec<_>>())
                ),
            };
            let mut edits = self.without(others, Some(first))?;
            let mut document = edits
                .iter()
                .find(|edit| edit.path == at.file)
                .map_or_else(|| self.tree.file(&at.file).cloned(), |edit| Ok(Document::parse(&edit.after)))?;
            self.replace(&mut document, at.line, wanted);
            edits.retain(|edit| edit.path != at.file);
            edits.insert(0, self.finish(&at.file, &document, why)?);
            edits
        } else {
            let mut document = self.tree.file(&self.tree.main)?.clone();
            let (line, why) = match self.commented(&document) {
                Some(line) => (line + 1, format!("no file sets {} yet; its default stands there as a comment", self.spelled)),
                None => (end_of_global(&document), format!("no file sets {} yet", self.spelled)),
            };
            self.insert(&mut document, line, "", wanted);
            let file = &self.tree.main;
            let why = format!("{why}: it goes into the global section of {file}, at line {line}");
            vec![self.finish(file, &document, why)?]
        };
        self.require_winner(&edits, None, Some(wanted))?;
        let edited = self.edited(&edits);
        // What `Match all` sets takes the place of the global value for everybody.
        if let Some(anybody) = anybody(&settings)
            && let Ok(settings) = evaluate(&edited, self.options, Some(&anybody))
        {
            self.require(&settings, Some(wanted))?;
        }
        Ok(with_besides(edits, self.besides(&edited, wanted)?))
    }

    fn unset(&self) -> Result<Vec<Edit>, EditError> {
        let settings = evaluate(self.tree, self.options, None)?;
        if let Some(option) = self.ours(&settings, None).iter().find(|setting| setting.at.line == 0) {
            return Err(EditError::CommandLine(option.text.clone()));
        }
        // Also those that did not count: the next one would.
        let lines = global_lines(self.tree)?;
        let lines: Vec<Setting> = lines.into_iter().filter(|(name, _)| *name == self.keyword).map(|(_, line)| line).collect();
        if lines.is_empty() {
            return Err(EditError::NotSet(self.spelled.clone(), String::new()));
        }
        let edits = self.without(&lines, None)?;
        self.require_winner(&edits, None, None)?;
        let besides = self.besides(&self.edited(&edits), &Wanted::new())?;
        Ok(with_besides(edits, besides))
    }

    /// The files without these lines; the line that stays may be among them, where its file is read twice.
    fn without(&self, lines: &[Setting], but: Option<&Setting>) -> Result<Vec<Edit>, EditError> {
        if let Some(option) = but.into_iter().chain(lines).find(|line| line.at.line == 0) {
            return Err(EditError::CommandLine(option.text.clone()));
        }
        let mut files: Vec<(&str, Vec<&Setting>)> = Vec::new();
        for line in lines.iter().filter(|line| but.is_none_or(|but| but.at != line.at)) {
            match files.iter_mut().find(|(path, _)| *path == line.at.file) {
                Some((_, known)) if known.iter().any(|other| other.at == line.at) => {}
                Some((_, known)) => known.push(line),
                None => files.push((&line.at.file, vec![line])),
            }
        }
        let edit = |(path, mut lines): (&str, Vec<&Setting>)| {
            let mut document = self.tree.file(path)?.clone();
            lines.sort_by_key(|line| line.at.line);
            // From the last, so that the numbers of the others stay true.
            lines.iter().rev().for_each(|line| document.remove(line.at.line));
            let set = if but.is_some() { "would add to" } else { "set" };
            self.finish(path, &document, format!("{} {set} {}", places(&lines), self.spelled))
        };
        files.into_iter().map(edit).collect()
    }

    /// Tries the block itself, then a new block at the end, then one before whatever block wins; the first that wins it is.
    fn set_in(&self, criteria: &Criteria, wanted: &Wanted) -> Result<Edit, EditError> {
        let settings = evaluate(self.tree, self.options, None)?;
        let client = client(criteria, &settings)?;
        let all = blocks(self.tree)?;
        let same: Vec<&Block> =
            all.iter().filter(|block| block.outer.is_none() && block.criteria.as_ref() == Some(criteria)).collect();
        let mut tries: Vec<Edit> = Vec::new();
        if let Some((block, lines)) = self.lines_in(&same, Some(wanted))? {
            let mut document = self.tree.file(&block.at.file)?.clone();
            if let Some((first, others)) = lines.split_first() {
                if self.lines != Lines::First {
                    others.iter().rev().for_each(|line| document.remove(*line));
                }
                self.replace(&mut document, *first, wanted);
                let why = Text::from(format!("{} line {first} sets {} inside `", block.at.file, self.spelled))
                    + quoted_line(&block.text)
                    + format!("` at {}", block.at);
                tries.push(self.finish(&block.at.file, &document, why)?);
            }
        } else if let Some((block, last)) = same.iter().find_map(|block| Some((block, block.directives.last()?.0))) {
            let mut document = self.tree.file(&block.at.file)?.clone();
            let indentation = document.line(last).map(|line| String::from_utf8_lossy(line.indentation()).into_owned());
            self.insert(&mut document, last + 1, &indentation.unwrap_or_default(), wanted);
            let why = Text::from("it goes to the end of `") + quoted_line(&block.text) + format!("` at {}", block.at);
            tries.push(self.finish(&block.at.file, &document, why)?);
        }
        let main = &self.tree.main;
        let end = self.tree.file(main)?.lines().count() + 1;
        tries.push(self.new_block(main, end, criteria, wanted, format!("a new block goes to the end of {main}"))?);
        let mut refused = None;
        for edit in tries {
            match self.require_winner(std::slice::from_ref(&edit), Some(&client), Some(wanted)) {
                Ok(()) => return self.with_overlaps(edit, criteria, wanted),
                Err(error @ EditError::WouldNotWin { .. }) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        // Somebody else's block comes first: ours goes before it.
        let settings = evaluate(self.tree, self.options, Some(&client))?;
        let winners = self.ours(&settings, Some(wanted));
        if let Some((at, text)) = winners.first().and_then(|winner| winner.under.first()) {
            let why =
                Text::from("a new block goes before `") + quoted_line(text) + format!("` at {at}, which would win otherwise");
            let edit = self.new_block(&at.file, at.line, criteria, wanted, why)?;
            match self.require_winner(std::slice::from_ref(&edit), Some(&client), Some(wanted)) {
                Ok(()) => return self.with_overlaps(edit, criteria, wanted),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        let by = "another line".to_owned();
        Err(refused.unwrap_or(EditError::WouldNotWin { keyword: self.spelled.clone(), by }))
    }

    fn unset_in(&self, criteria: &Criteria) -> Result<Edit, EditError> {
        let all = blocks(self.tree)?;
        let same: Vec<&Block> =
            all.iter().filter(|block| block.outer.is_none() && block.criteria.as_ref() == Some(criteria)).collect();
        let holding: Vec<&&Block> =
            same.iter().filter(|block| block.directives.iter().any(|(_, name)| *name == self.keyword)).collect();
        let Some(first) = holding.first() else {
            return Err(EditError::NotSet(self.spelled.clone(), format!(" inside `Match {criteria}`")));
        };
        if holding.iter().any(|block| block.at.file != first.at.file) {
            let at = holding.iter().map(|block| block.at.to_string()).collect();
            return Err(EditError::SeveralFiles { keyword: self.spelled.clone(), at });
        }
        let mut document = self.tree.file(&first.at.file)?.clone();
        for block in holding.iter().rev() {
            let (gone, left): (Vec<_>, Vec<_>) = block.directives.iter().partition(|(_, name)| *name == self.keyword);
            gone.iter().rev().for_each(|(line, _)| document.remove(*line));
            // A Match line over nothing would take in what somebody adds behind it.
            if left.is_empty() {
                document.remove(block.at.line);
            }
        }
        let why = Text::from("`") + quoted_line(&first.text) + format!("` at {} sets {}", first.at, self.spelled);
        let edit = self.finish(&first.at.file, &document, why)?;
        // No line under these criteria is left; what counts for such a client now is said.
        let client = client(criteria, &evaluate(self.tree, self.options, None)?)?;
        let settings = evaluate(&self.edited(std::slice::from_ref(&edit)), self.options, Some(&client))?;
        let besides = match self.ours(&settings, None).first() {
            Some(next) => {
                vec![
                    Text::from(format!("for those that `{criteria}` matches {} counts then: ", next.at))
                        + quoted_line(&next.text),
                ]
            }
            None => Vec::new(),
        };
        Ok(Edit { besides, ..edit })
    }

    /// The first of these blocks with lines of the keyword, and those lines. Lines that add up must all be in that block.
    fn lines_in<'b>(&self, same: &[&'b Block], wanted: Option<&Wanted>) -> Result<Option<(&'b Block, Vec<usize>)>, EditError> {
        let mut found: Vec<(&Block, Vec<usize>)> = Vec::new();
        for &block in same {
            let document = self.tree.file(&block.at.file)?;
            let ours = |line: usize| {
                let directive = document.line(line).and_then(|line| line.directive().ok().flatten());
                directive.is_some_and(|directive| {
                    let at = Place { file: block.at.file.clone(), line };
                    let setting = Setting { arguments: directive.arguments, at, text: String::new(), under: Vec::new() };
                    self.is_ours(&setting, wanted)
                })
            };
            let lines = block.directives.iter().filter(|(line, name)| *name == self.keyword && ours(*line));
            let lines: Vec<usize> = lines.map(|(line, _)| *line).collect();
            if !lines.is_empty() {
                found.push((block, lines));
            }
        }
        Ok(found.into_iter().next())
    }

    /// A block of its own before a line.
    fn new_block(
        &self,
        path: &str,
        line: usize,
        criteria: &Criteria,
        wanted: &Wanted,
        why: impl Into<Text>,
    ) -> Result<Edit, EditError> {
        let mut document = self.tree.file(path)?.clone();
        document.insert(line, &format!("Match {criteria}"));
        self.insert(&mut document, line + 1, "    ", wanted);
        self.finish(path, &document, why)
    }

    /// The wanted lines in the place of one.
    fn replace(&self, document: &mut Document, line: usize, wanted: &Wanted) {
        let Some((first, others)) = wanted.split_first() else { return };
        let indentation = document.line(line).map(|line| String::from_utf8_lossy(line.indentation()).into_owned());
        let same = document.line(line).and_then(|line| line.directive().ok().flatten()).is_some_and(|it| it.arguments == *first);
        // Nothing to do leaves the comment behind it, too.
        if !same {
            document.replace(line, &self.text(first));
        }
        self.insert(document, line + 1, &indentation.unwrap_or_default(), &others.to_vec());
    }

    /// The wanted lines before a line.
    fn insert(&self, document: &mut Document, line: usize, indentation: &str, wanted: &Wanted) {
        for (at, arguments) in (line..).zip(wanted) {
            document.insert(at, &format!("{indentation}{}", self.text(arguments)));
        }
    }

    /// The line of the global section that shows the default as a comment, as in the file that OpenSSH ships: `#Port 22`.
    fn commented(&self, document: &Document) -> Option<usize> {
        let end = first_match(document).unwrap_or(usize::MAX);
        let shows = |line: &Line| {
            let text = line.bytes().strip_prefix(b"#").filter(|text| text.first().is_some_and(u8::is_ascii_alphabetic));
            let directive = text.and_then(|text| Line::new(text).directive().ok().flatten());
            directive.is_some_and(|directive| canonical(&directive.keyword) == self.keyword)
        };
        document.lines().take_while(|(number, _)| *number < end).filter(|(_, line)| shows(line)).last().map(|(number, _)| number)
    }

    fn finish(&self, path: &str, document: &Document, why: impl Into<Text>) -> Result<Edit, EditError> {
        let before = self.tree.file(path)?.bytes();
        Ok(Edit { path: path.to_owned(), before, after: document.bytes(), why: why.into(), besides: Vec::new() })
    }

    /// The files with the edits in them.
    fn edited(&self, edits: &[Edit]) -> Tree {
        edited(self.tree, edits)
    }

    /// Reads the edited files again: what was asked for must be what counts.
    fn require_winner(&self, edits: &[Edit], client: Option<&Client>, wanted: Option<&Wanted>) -> Result<(), EditError> {
        self.require(&evaluate(&self.edited(edits), self.options, client)?, wanted)
    }

    fn require(&self, settings: &Settings, wanted: Option<&Wanted>) -> Result<(), EditError> {
        let found = self.ours(settings, wanted);
        let values = found.iter().map(|setting| &setting.arguments);
        if values.eq(wanted.into_iter().flatten()) {
            return Ok(());
        }
        let other = found.iter().find(|setting| !wanted.into_iter().flatten().any(|line| *line == setting.arguments));
        let by = other.or(found.first()).map_or_else(|| "the default".to_owned(), |setting| setting.at.to_string());
        Err(EditError::WouldNotWin { keyword: self.spelled.clone(), by })
    }

    /// Match blocks that set another value, and lines of the global section that no longer count.
    fn besides(&self, edited: &Tree, wanted: &Wanted) -> Result<Vec<Text>, EditError> {
        let mut besides = Vec::new();
        for block in blocks(edited)? {
            if block.directives.iter().any(|(_, name)| *name == self.keyword) {
                let where_and_what = format!("` at {} sets {} for those it matches", block.at, self.spelled);
                besides.push(Text::from("`") + quoted_line(&block.text) + where_and_what);
            }
        }
        if self.lines == Lines::First && !wanted.is_empty() {
            let lines = global_lines(edited)?.into_iter().filter(|(name, _)| *name == self.keyword);
            for (_, later) in lines.skip(1).filter(|(_, line)| line.under.is_empty()) {
                besides.push(format!("{} sets {} too and never counts", later.at, self.spelled).into());
            }
        }
        Ok(besides)
    }

    /// Blocks before the edited one that set the same for some of those it matches.
    fn with_overlaps(&self, edit: Edit, criteria: &Criteria, wanted: &Wanted) -> Result<Edit, EditError> {
        let edited = self.edited(std::slice::from_ref(&edit));
        let all = blocks(&edited)?;
        let sets = |block: &&Block| block.directives.iter().any(|(_, name)| *name == self.keyword);
        let adds = self.lines != Lines::First && !wanted.is_empty();
        let before = all.iter().filter(sets).take_while(|block| adds || block.criteria.as_ref() != Some(criteria));
        let others = before.filter(|block| block.criteria.as_ref() != Some(criteria));
        let what = if adds { "adds its own" } else { "comes first" };
        let besides = others.map(|block| {
            let where_and_what = format!("` at {} sets {} too and {what} for those that both match", block.at, self.spelled);
            Text::from("`") + quoted_line(&block.text) + where_and_what
        });
        Ok(Edit { besides: besides.collect(), ..edit })
    }
}

/// The files with the edits in them.
pub fn edited(tree: &Tree, edits: &[Edit]) -> Tree {
    let mut edited = tree.clone();
    edited.files.extend(edits.iter().map(|edit| (edit.path.clone(), Document::parse(&edit.after))));
    edited
}

/// `/etc/ssh/sshd_config line 3, /etc/ssh/sshd_config.d/a.conf line 1`
fn places(lines: &[&Setting]) -> String {
    lines.iter().map(|line| line.at.to_string()).collect::<Vec<_>>().join(", ")
}

/// A line of the files, quoted.
fn quoted_line(text: &str) -> Text {
    Text::quote(Quote::SshdLines, text)
}

/// What is said once for all of them.
fn with_besides(mut edits: Vec<Edit>, besides: Vec<Text>) -> Vec<Edit> {
    if let Some(first) = edits.first_mut() {
        first.besides = besides;
    }
    edits
}

/// A client that the criteria match.
fn client(criteria: &Criteria, settings: &Settings) -> Result<Client, EditError> {
    let none = || EditError::Criteria(format!("no client is found that `{criteria}` matches"));
    criteria.client(port(settings)).ok_or_else(none)
}

/// The port sshd listens on, as far as it is set.
fn port(settings: &Settings) -> u16 {
    let port = settings.get("port").and_then(|lines| lines.first()?.arguments.first()?.parse().ok());
    port.unwrap_or(22)
}

/// A client that nothing but `Match all` and the like matches.
fn anybody(settings: &Settings) -> Option<Client> {
    Criteria::parse("all").ok()?.client(port(settings))
}

/// The first `Match` line of a file: what stands behind it is not global.
fn first_match(document: &Document) -> Option<usize> {
    let is_match = |line: &Line| line.directive().ok().flatten().is_some_and(|directive| directive.keyword == "match");
    document.lines().find(|(_, line)| is_match(line)).map(|(number, _)| number)
}

/// Where a new line of the global section goes: before the first `Match` line and the comment right above it.
fn end_of_global(document: &Document) -> usize {
    let Some(mut line) = first_match(document) else { return document.lines().count() + 1 };
    let is_comment = |line: usize| document.line(line).is_some_and(|line| line.to_string().starts_with('#'));
    while line > 1 && is_comment(line - 1) {
        line -= 1;
    }
    line
}
