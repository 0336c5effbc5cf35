//! Whether steps on sshd concern one source alone, judged by what they do to the files and not by what planned them: every line that counts
//! for others must be the same before and after. Decides nothing about who may do it.

use crate::address::Source;
use crate::host::{HostState, Part, step};
use crate::subsystem::sshd::change::no_plan::tree;
use crate::subsystem::sshd::change::repair::Repair;
use crate::subsystem::sshd::change::step::{Activation, Step};
use crate::subsystem::sshd::config::{Criteria, Place, Tree, keyword};
use crate::subsystem::sshd::facts::state::Server;
use crate::subsystem::sshd::quoting::{line, said};
use crate::text::quoted::Text;

/// Deeper than sshd goes (servconf.c, `SERVCONF_MAX_DEPTH`): such files are not judged.
const MAX_DEPTH: usize = 16;

/// The first thing in these steps that concerns others than the source; `None` where nothing does.
pub fn beyond(host: &HostState, steps: &[step::Step], source: Source) -> Option<Text> {
    let mut state = host.clone();
    for step in steps {
        match step {
            step::Step::Sshd(step) => {
                if let Some(found) = of_step(&state, step, source) {
                    return Some(found);
                }
                if let Err(mismatch) = step.predict(&mut state) {
                    return Some(mismatch.0.into());
                }
            }
            step::Step::Repair(repair) => return Some(of_repair(repair).into()),
            step::Step::Fail2ban(_)
            | step::Step::HostsAccess(_)
            | step::Step::NfTables(_)
            | step::Step::Xtables(_)
            | step::Step::Ipset(_)
            | step::Step::Route(_)
            | step::Step::Recent(_) => {}
        }
    }
    None
}

fn of_repair(repair: &Repair) -> String {
    format!("`{}` counts for everybody", repair.summary())
}

fn of_step(state: &HostState, step: &Step, source: Source) -> Option<Text> {
    let Some(Part::Present(server)) = state.sshd.servers.get(&step.port) else {
        return Some(format!("the sshd on port {} was not read", step.port).into());
    };
    if step.files.is_empty() || matches!(step.activation, Activation::Start(_)) {
        return Some(format!("`{}` counts for everybody", step.activation).into());
    }
    let mut after = state.clone();
    if let Err(mismatch) = step.predict(&mut after) {
        return Some(mismatch.0.into());
    }
    let Some(Part::Present(after)) = after.sshd.servers.get(&step.port) else { return Some("sshd was not read".into()) };
    let found = match (for_others(server, source), for_others(after, source)) {
        (Ok(before), Ok(after)) => changed(&before, &after),
        (Err(why), _) | (_, Err(why)) => Some(why),
    };
    if found.is_some() {
        return found;
    }
    // What somebody else has edited and not activated would come into effect with it. Only the pid file tells when sshd read its files.
    let known = server.effective.as_ref().is_ok_and(|effective| effective.one("pidfile").is_some_and(|path| path != "none"));
    if server.running && (!server.stale.is_empty() || !known) {
        let files = if known { server.stale.join(", ") } else { "its files".to_owned() };
        return Some(format!("`{}` makes sshd read what else was changed in {files}, for everybody", step.activation).into());
    }
    None
}

/// A line that counts for others than the source.
struct Counting {
    /// What must stay: the Match lines it stands under, its keyword, its values without what is about the source alone.
    what: (Vec<String>, String, Vec<String>),
    at: Place,
}

/// The first line that is not on both sides.
fn changed(before: &[Counting], after: &[Counting]) -> Option<Text> {
    let same = before.iter().zip(after).take_while(|(before, after)| before.what == after.what).count();
    let added = after.len() >= before.len();
    let counting = if added { after.get(same) } else { before.get(same) }?;
    let (under, keyword, _) = &counting.what;
    let name = keyword::spelling(keyword);
    // Of a line that sshd does not take, the whole of it stands for a keyword.
    let name = if keyword::find(keyword).is_some() { name.into() } else { line(&name) };
    let within = |text: &String| Text::from(" inside `") + line(text) + "`";
    let within = under.last().map(within).unwrap_or_default();
    let scope = match keyword::find(keyword) {
        Some(found) if found.in_match => "changed outside of a Match block for it",
        _ => "cannot stand in a Match block for one address",
    };
    Some(name + format!(" at {}", counting.at) + within + format!(" counts for others too: it {scope}"))
}

/// Every line of all files that counts for others than the source, in the order in which sshd reads them.
fn for_others(server: &Server, source: Source) -> Result<Vec<Counting>, Text> {
    let tree = tree(server).map_err(|why| why.words())?;
    let mut found = Vec::new();
    collect(tree, &tree.main, source, &mut Vec::new(), 0, &mut found)?;
    Ok(found)
}

fn collect(
    tree: &Tree,
    path: &str,
    source: Source,
    under: &mut Vec<(String, bool)>,
    depth: usize,
    found: &mut Vec<Counting>,
) -> Result<(), Text> {
    if depth >= MAX_DEPTH {
        return Err(format!("{path}: too many nested Includes").into());
    }
    let outer = under.len();
    for (number, line) in tree.file(path).map_err(|error| said(&error.to_string()))?.lines() {
        let at = Place { file: path.to_owned(), line: number };
        let directive = match line.directive() {
            Ok(None) => continue,
            Ok(Some(directive)) => directive,
            // sshd takes no such file; the line must stay to the letter.
            Err(_) => {
                found.push(Counting { what: (texts(under), line.to_string(), Vec::new()), at });
                continue;
            }
        };
        let name = keyword::canonical(&directive.keyword);
        if name == "match" {
            under.truncate(outer);
            let only = Criteria::of(&directive).is_some_and(|criteria| criteria.only_from(source));
            under.push((line.to_string(), only));
            continue;
        }
        if under.iter().any(|(_, only)| *only) {
            continue;
        }
        if name == "include" {
            for pattern in &directive.arguments {
                for file in tree.included(pattern).map_err(|error| said(&error.to_string()))? {
                    collect(tree, file, source, under, depth + 1, found)?;
                }
            }
        }
        let values = match name.as_str() {
            "allowusers" => directive.arguments.into_iter().filter(|pattern| !names_only(pattern, source)).collect(),
            "denyusers" => directive.arguments.iter().map(|pattern| without(pattern, source)).collect(),
            _ => directive.arguments,
        };
        found.push(Counting { what: (texts(under), name, values), at });
    }
    under.truncate(outer);
    Ok(())
}

fn texts(under: &[(String, bool)]) -> Vec<String> {
    under.iter().map(|(text, _)| text.clone()).collect()
}

/// Whether a pattern of `AllowUsers` is about the source alone: `alice@203.0.113.7`. A list that had no other name stays a list, and keeps
/// others out.
fn names_only(pattern: &str, source: Source) -> bool {
    let within = |host: &str| host.parse::<Source>().is_ok_and(|host| source.contains(host));
    pattern.split_once('@').is_some_and(|(user, host)| !user.starts_with('!') && within(host))
}

/// A pattern of `DenyUsers` without what it leaves out of the source: `alice@!203.0.113.7,*` is `alice` for all others.
fn without(pattern: &str, source: Source) -> String {
    let Some((user, hosts)) = pattern.split_once('@') else { return pattern.to_owned() };
    let excludes =
        |host: &str| host.strip_prefix('!').is_some_and(|host| host.parse::<Source>().is_ok_and(|host| source.contains(host)));
    let left: Vec<&str> = hosts.split(',').filter(|host| !excludes(host)).collect();
    match left.as_slice() {
        ["*"] => user.to_owned(),
        left => format!("{user}@{}", left.join(",")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::subsystem::sshd::config::Document;

    fn tree(main: &str, drop_in: &str) -> Tree {
        let mut tree = Tree::new("/m");
        for (path, text) in [("/m", main), ("/d", drop_in)] {
            tree.files.insert(path.to_owned(), Document::parse(text.as_bytes()));
        }
        tree.includes.insert("/d".to_owned(), vec!["/d".to_owned()]);
        tree
    }

    fn judged(before: (&str, &str), after: (&str, &str)) -> Option<String> {
        let source = "203.0.113.7".parse().unwrap();
        let lines = |(main, drop_in): (&str, &str)| {
            let mut found = Vec::new();
            let tree = tree(main, drop_in);
            collect(&tree, "/m", source, &mut Vec::new(), 0, &mut found).unwrap();
            found
        };
        changed(&lines(before), &lines(after)).map(|text| text.as_str().to_owned())
    }

    #[test]
    fn an_edit_concerns_one_source_alone_only_where_nothing_changes_for_others() {
        let main = "Include /d\nUsePAM yes\nMatch User bob\n  AllowTcpForwarding no\n";
        let block = "Match User alice Address 203.0.113.7\n  PermitTTY yes\n";
        for (before, after) in [
            ((main, ""), (format!("{main}{block}"), String::new())),
            ((main, ""), (format!("Include /d\nUsePAM yes\n{block}Match User bob\n  AllowTcpForwarding no\n"), String::new())),
            ((main, ""), (main.to_owned(), block.to_owned())),
            ((main, "AllowUsers root\n"), (main.to_owned(), "AllowUsers root alice@203.0.113.7\n".to_owned())),
            ((main, "DenyUsers bob alice\n"), (main.to_owned(), "DenyUsers bob alice@!203.0.113.7,*\n".to_owned())),
            (
                (main, "DenyUsers alice@203.0.113.0/24\n"),
                (main.to_owned(), "DenyUsers alice@!203.0.113.7,203.0.113.0/24\n".to_owned()),
            ),
        ] {
            assert_eq!(judged(before, (&after.0, &after.1)), None, "{after:?}");
        }
        for (drop_in, after, word) in [
            ("", (main.to_owned(), "PermitTTY yes\n".to_owned()), "PermitTTY at /d line 1"),
            ("", (format!("{main}Match Address 203.0.113.0/24\n  PermitTTY yes\n"), String::new()), "PermitTTY at /m line 6"),
            ("", (format!("{main}Match Address 203.0.113.7,198.51.100.0/24\n  PermitTTY yes\n"), String::new()), "PermitTTY"),
            ("", (format!("{main}Match Address *,!203.0.113.7\n  PermitTTY yes\n"), String::new()), "PermitTTY"),
            // It swallows what stood there.
            ("", (format!("Include /d\n{block}UsePAM yes\nMatch User bob\n  AllowTcpForwarding no\n"), String::new()), "UsePAM"),
            (
                "",
                (format!("Include /d\nUsePAM yes\nMatch User bob\n{block}  AllowTcpForwarding no\n"), String::new()),
                "AllowTcpForwarding",
            ),
            ("", (main.to_owned(), "AllowUsers alice@203.0.113.7\n".to_owned()), "AllowUsers at /d line 1"),
            ("AllowUsers root\n", (main.to_owned(), "AllowUsers root alice\n".to_owned()), "AllowUsers at /d line 1"),
            ("AllowUsers root\n", (main.to_owned(), "AllowUsers root *@203.0.113.0/24\n".to_owned()), "AllowUsers"),
            ("DenyUsers alice\n", (main.to_owned(), String::new()), "DenyUsers at /d line 1"),
            ("DenyUsers alice\n", (main.to_owned(), "DenyUsers alice@!203.0.113.0/24,*\n".to_owned()), "DenyUsers"),
            (
                "",
                (main.to_owned(), "MaxStartups 100\n".to_owned()),
                "MaxStartups at /d line 1 counts for others too: it cannot stand",
            ),
            ("Mtach x\nBanner\n", (main.to_owned(), "# Mtach x\nBanner\n".to_owned()), "mtach at /d line 1"),
        ] {
            let got = judged((main, drop_in), (&after.0, &after.1)).unwrap_or_default();
            assert!(got.contains(word), "{after:?}: {got}");
        }
    }
}
