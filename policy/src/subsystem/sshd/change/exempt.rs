//! `PerSourcePenaltyExemptList` for a lease: adds one source to the list where sshd holds something against it, and takes exactly that
//! entry out again, wherever it stands by then. Other entries, and every other byte of their lines, stay.

use crate::address::Source;
use crate::host::{HostState, Needs, Part};
use crate::subsystem::sshd::change::no_plan::{NoPlan, tree};
use crate::subsystem::sshd::change::plan::{Keyword, Planned, plan_edits, plan_set, server};
use crate::subsystem::sshd::config::{Directive, Document, Edit, Line, evaluate};
use crate::subsystem::sshd::judge::stages::stages;
use crate::verdict::Connection;
use crate::verdict::cause::Cause;

/// As `sshd_config(5)` writes it; a comma-separated list, of which the first line counts.
const NAME: &str = "PerSourcePenaltyExemptList";
const KEYWORD: &str = "persourcepenaltyexemptlist";

fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim)
}

/// Adds the source where sshd turned it away for a penalty that may last. The reload that this takes makes sshd forget all penalties,
/// and the entry keeps the source from earning new ones. Nothing is to be done on a host without sshd, or without penalties.
pub fn plan_exempt(host: &HostState, source: Source, port: u16, needs: &mut Needs) -> Result<Planned, NoPlan> {
    if matches!(host.sshd.servers.get(&port), Some(Part::Absent(_))) {
        return Ok(Planned::default());
    }
    let Some(server) = server(host, port, needs)? else { return Ok(Planned::default()) };
    let connection = Connection { source, port, user: None };
    let held = stages(host, &connection, needs);
    if !held.iter().flat_map(|(_, blocks)| blocks).any(|block| block.finding.cause == Cause::SshdPenalty) {
        return Ok(Planned::default());
    }
    let tree = tree(&server)?;
    let settings = evaluate(tree, &server.invocation.options, None)?;
    let first = settings.get(KEYWORD).and_then(|settings| settings.first()).filter(|setting| setting.at.line > 0);
    let list = first.and_then(|setting| setting.arguments.first()).filter(|list| *list != "none");
    let mut planned = match (first, list) {
        (Some(setting), Some(list)) => {
            let document = tree.files.get(&setting.at.file).ok_or_else(|| NoPlan::FileUnread(setting.at.file.clone()))?;
            let longer = document.line(setting.at.line).and_then(|line| with(line, list, &source.short()));
            let longer = longer.ok_or_else(|| NoPlan::NoPlainList(setting.at.clone()))?;
            let mut after = document.clone();
            after.replace(setting.at.line, &longer);
            let why = format!("{} is the first to set {NAME}, and the first wins", setting.at);
            plan_edits(host, port, vec![edit(&setting.at.file, document, &after, why)], needs)?
        }
        _ => plan_set(host, port, Keyword { name: NAME, criteria: None }, &[source.short()], needs)?,
    };
    if !planned.steps.is_empty() {
        planned.notes.push("the reload makes sshd forget the penalties of all addresses".into());
    }
    Ok(planned)
}

/// Takes the entry out of every line that holds it, and a line that holds nothing else away. Nothing is to be done where it is gone.
pub fn plan_unexempt(host: &HostState, source: Source, port: u16, needs: &mut Needs) -> Result<Planned, NoPlan> {
    if matches!(host.sshd.servers.get(&port), Some(Part::Absent(_))) {
        return Ok(Planned::default());
    }
    let Some(server) = server(host, port, needs)? else { return Ok(Planned::default()) };
    let tree = tree(&server)?;
    let entry = source.short();
    let mut edits = Vec::new();
    for (path, document) in &tree.files {
        let lists: Vec<(usize, &Line, Directive)> =
            document.lines().filter_map(|(number, line)| Some((number, line, list(line)?))).collect();
        let mut after = document.clone();
        let mut touched = Vec::new();
        // From the last, so that the numbers of the others stay true.
        for (number, line, list) in lines_with(&lists, &entry).rev() {
            match without(line, list, &entry) {
                Some(shorter) if !shorter.is_empty() => after.replace(number, &shorter),
                Some(_) => after.remove(number),
                None => return Err(NoPlan::EntryStays { path: path.clone(), line: number, entry: entry.clone() }),
            }
            touched.push(number.to_string());
        }
        if !touched.is_empty() {
            edits.push(edit(path, document, &after, format!("{path} line {} holds {entry}", touched.join(", "))));
        }
    }
    if edits.is_empty() { Ok(Planned::default()) } else { plan_edits(host, port, edits, needs) }
}

fn edit(path: &str, before: &Document, after: &Document, why: String) -> Edit {
    Edit { path: path.to_owned(), before: before.bytes(), after: after.bytes(), why: why.into(), besides: Vec::new() }
}

/// The directive of a line that is such a list.
fn list(line: &Line) -> Option<Directive> {
    line.directive().ok().flatten().filter(|directive| directive.keyword == KEYWORD)
}

fn lines_with<'a>(
    lists: &'a [(usize, &'a Line, Directive)],
    entry: &'a str,
) -> impl DoubleEndedIterator<Item = (usize, &'a Line, &'a str)> {
    lists.iter().filter_map(move |(number, line, directive)| {
        let list = directive.arguments.first()?;
        entries(list).any(|one| one == entry).then_some((*number, *line, list.as_str()))
    })
}

/// The line with another entry at the end of its list; `None` where quotes hide the list.
fn with(line: &Line, list: &str, entry: &str) -> Option<String> {
    let text = line.to_string();
    let end = text.find(list)? + list.len();
    Some(format!("{},{entry}{}", text.get(..end)?, text.get(end..)?))
}

/// The line without this entry; empty where its list has no other one.
fn without(line: &Line, list: &str, entry: &str) -> Option<String> {
    let left: Vec<&str> = list.split(',').filter(|one| one.trim() != entry).collect();
    if left.is_empty() {
        return Some(String::new());
    }
    let text = line.to_string();
    let start = text.find(list)?;
    Some(format!("{}{}{}", text.get(..start)?, left.join(","), text.get(start + list.len()..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_and_goes_and_every_other_byte_of_the_line_stays() {
        for line in ["PerSourcePenaltyExemptList 10.0.0.1", "perSourcePenaltyExemptList=\"10.0.0.1,10.0.0.0/24\" # the office"] {
            let line = Line::new(line);
            let before = list(&line).and_then(|found| found.arguments.first().cloned()).unwrap_or_default();
            let longer = with(&line, &before, "10.0.0.10").unwrap_or_default();
            let longer = Line::new(longer);
            let after = list(&longer).and_then(|found| found.arguments.first().cloned()).unwrap_or_default();
            assert_eq!(after, format!("{before},10.0.0.10"));
            // Somebody adds another one behind it.
            let more = Line::new(longer.to_string().replace("10.0.0.10", "10.0.0.10,10.0.0.100"));
            let more_list = list(&more).and_then(|found| found.arguments.first().cloned()).unwrap_or_default();
            let left = without(&more, &more_list, "10.0.0.10").unwrap_or_default();
            assert_eq!(Line::new(&*left).directive().map(|found| found.is_some()), Ok(true));
            assert!(left.contains("10.0.0.1,") || left.contains("10.0.0.1\"") || left.contains("10.0.0.0/24,"), "{left}");
            assert_eq!(without(&longer, &after, "10.0.0.10"), Some(line.to_string()));
        }
        let only = Line::new("PerSourcePenaltyExemptList 10.0.0.10");
        assert_eq!(without(&only, "10.0.0.10", "10.0.0.10"), Some(String::new()));
    }
}
