//! What a shell offers when Tab is pressed: verbs and options come from the command line's own definition, the rest from this host as
//! any of its users sees it. Asks no agent, needs no key, writes nothing but the candidates, and waits for nobody longer than a second.
//!
//! The shell says `COMPLETE=bash sshfix` to be told how to ask, and `COMPLETE=bash sshfix -- WORDS...` to ask.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command, CommandFactory};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter};
use clap_complete::env::{EnvCompleter, Fish, Zsh};

use crate::cli::Cli;
use crate::text;

mod bash;
mod host;
mod sshd;
#[cfg(test)]
mod tests;

const VARIABLE: &str = "COMPLETE";
const SHELLS: &str = "bash, zsh, fish";
/// `permitroot` is completed to `PermitRootLogin` (zshcompsys(1), Standard Styles, matcher).
const ANY_CASE: &str = "zstyle ':completion:*:*:sshfix:*' matcher 'm:{[:lower:]}={[:upper:]}'\n";
/// Far more than a person types.
const LINE_MAX: usize = 16 * 1024;

/// A shell that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    /// By its name or, as `$SHELL` has it, its path.
    fn of(name: &OsStr) -> Option<Self> {
        match Path::new(name).file_name()?.to_str()? {
            "bash" => Some(Shell::Bash),
            "zsh" => Some(Shell::Zsh),
            "fish" => Some(Shell::Fish),
            _ => None,
        }
    }
}

/// Answers a shell that asks for completions, and gives the exit status; `None` where this command line is none of that.
pub fn answer(args: &[OsString]) -> Option<u8> {
    let name = std::env::var_os(VARIABLE).filter(|name| !name.is_empty() && name != "0")?;
    let shell = Shell::of(&name);
    let answer = match (args, shell) {
        ([program], Some(shell)) => registration(shell, program),
        ([_], None) => {
            eprintln!("sshfix: no completion for the shell {}; there is one for {SHELLS}", name.display());
            return Some(2);
        }
        ([_, dashes, words @ ..], Some(shell)) if dashes == "--" => candidates(shell, words),
        // Somebody has a variable of that name for something else.
        _ => return None,
    };
    // A shell that went away wants no answer.
    let _ = std::io::stdout().write_all(&answer);
    Some(0)
}

/// What the shell is to source.
fn registration(shell: Shell, program: &OsStr) -> Vec<u8> {
    let program = if Path::new(program).components().count() > 1 {
        std::path::absolute(program).unwrap_or_else(|_| PathBuf::from(program))
    } else {
        PathBuf::from(program)
    };
    let program = program.to_string_lossy();
    let mut script = Vec::new();
    // A vector takes every write.
    let _ = match shell {
        Shell::Bash => script.write_all(bash::registration(&program).as_bytes()),
        Shell::Zsh => Zsh
            .write_registration(VARIABLE, "sshfix", "sshfix", &program, &mut script)
            .and_then(|()| script.write_all(ANY_CASE.as_bytes())),
        Shell::Fish => Fish.write_registration(VARIABLE, "sshfix", "sshfix", &program, &mut script),
    };
    script
}

/// The candidates as the shell takes them. `asked` is what the registration gives it.
fn candidates(shell: Shell, asked: &[OsString]) -> Vec<u8> {
    let mut answer = Vec::new();
    if asked.is_empty() || asked.iter().map(|word| word.len()).sum::<usize>() > LINE_MAX {
        return answer;
    }
    let directory = std::env::current_dir().ok();
    // Candidates that are not to be had are none.
    let _ = match shell {
        Shell::Bash => bash::candidates(asked, &mut answer, complete),
        Shell::Zsh => {
            // The words as typed, from the first to the last, and the index of the one with the cursor.
            let index = std::env::var("_CLAP_COMPLETE_INDEX").ok().and_then(|index| index.parse().ok()).unwrap_or(usize::MAX);
            let mut words: Vec<OsString> = asked.iter().take(index.saturating_add(1)).map(|word| bash::unquoted(word)).collect();
            if words.len() == index {
                words.push(OsString::new());
            }
            Zsh.write_complete(&mut command(&words), words, directory.as_deref(), &mut answer)
        }
        Shell::Fish => {
            let words: Vec<OsString> = asked.iter().map(|word| bash::unquoted(word)).collect();
            Fish.write_complete(&mut command(&words), words, directory.as_deref(), &mut answer)
        }
    };
    answer
}

/// What the last of these words could become.
fn complete(words: Vec<OsString>) -> Vec<String> {
    let Some(last) = words.len().checked_sub(1) else { return Vec::new() };
    let empty = words.last().is_some_and(|word| word.is_empty());
    let directory = std::env::current_dir().ok();
    let found = clap_complete::engine::complete(&mut command(&words), words, last, directory.as_deref()).unwrap_or_default();
    let mut texts: Vec<String> = found.iter().filter_map(|candidate| candidate.get_value().to_str().map(str::to_owned)).collect();
    // Options are for who types a dash, or where nothing else is to be said.
    if empty && texts.iter().any(|text| !text.starts_with('-')) {
        texts.retain(|text| !text.starts_with('-'));
    }
    texts
}

/// The command line's definition, with completers that know the words before the last.
fn command(words: &[OsString]) -> Command {
    let before = Before::of(words);
    let keyword_before = before.clone();
    let keyword = move |current: &str| sshd::keywords(current, keyword_before.criteria.is_some());
    let value = move |current: &str| before.value(current);
    let user = |current: &str| host::starting(current, host::users());
    let with_user = |verb: Command| verb.mut_arg("user", |arg| arg.add(completer(user)));
    Cli::command().mut_subcommand("ctl", |ctl| {
        ctl.mut_arg("identity", files)
            .mut_subcommand("diagnose", with_user)
            .mut_subcommand("fix", with_user)
            .mut_subcommand("audit", |audit| audit.mut_subcommand("verify", |verify| verify.mut_arg("checkpoint", files)))
            .mut_subcommand("sshd", |sshd| {
                let criteria = |verb: Command| verb.mut_arg("criteria", |arg| arg.add(completer(sshd::criteria)));
                sshd.mut_subcommand("show", |show| {
                    with_user(show).mut_arg("keywords", |arg| arg.add(completer(|current| sshd::keywords(current, false))))
                })
                .mut_subcommand("set", |set| {
                    criteria(set)
                        .mut_arg("keyword", |arg| arg.add(completer(keyword.clone())))
                        .mut_arg("values", |arg| arg.add(completer(value)))
                })
                .mut_subcommand("unset", |unset| criteria(unset).mut_arg("keyword", |arg| arg.add(completer(keyword.clone()))))
            })
    })
}

/// A completer that is given and gives text; what no terminal should be shown is left out.
fn completer(of: impl Fn(&str) -> Vec<String> + Send + Sync + 'static) -> ArgValueCompleter {
    ArgValueCompleter::new(move |current: &OsStr| -> Vec<CompletionCandidate> {
        let found = current.to_str().map(&of).unwrap_or_default();
        let plain = found.into_iter().filter(|text| !text.chars().any(text::is_dangerous));
        plain.enumerate().map(|(place, text)| CompletionCandidate::new(text).display_order(Some(place))).collect()
    })
}

fn files(arg: Arg) -> Arg {
    arg.add(completer(|current| paths(current, &PathCompleter::any())))
}

/// The paths that begin so.
fn paths(current: &str, completer: &PathCompleter) -> Vec<String> {
    let shown = |candidate: &CompletionCandidate| !candidate.is_hide_set() || current.rsplit('/').next() != Some("");
    let found = completer.complete(OsStr::new(current)).into_iter().filter(shown);
    found.filter_map(|candidate| candidate.get_value().to_str().map(str::to_owned)).collect()
}

/// What was typed of `sshd set` or `sshd unset` before the word that is completed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Before {
    keyword: Option<String>,
    values: Vec<String>,
    criteria: Option<String>,
}

impl Before {
    fn of(words: &[OsString]) -> Self {
        let Some((_, before)) = words.split_last() else { return Self::default() };
        // What is missing or wrong is left for the one who types.
        let Ok(matches) = Cli::command().ignore_errors(true).try_get_matches_from(before) else { return Self::default() };
        let under = |matches: &ArgMatches, name: &str| matches.subcommand_matches(name).cloned();
        let Some(sshd) = under(&matches, "ctl").and_then(|ctl| under(&ctl, "sshd")) else { return Self::default() };
        let Some((_, verb)) = sshd.subcommand() else { return Self::default() };
        let one = |name| verb.try_get_one::<String>(name).ok().flatten().cloned();
        let values = verb.try_get_many::<String>("values").ok().flatten();
        Self { keyword: one("keyword"), values: values.into_iter().flatten().cloned().collect(), criteria: one("criteria") }
    }

    fn value(&self, current: &str) -> Vec<String> {
        self.keyword.as_deref().map(|keyword| sshd::values(keyword, &self.values, current)).unwrap_or_default()
    }
}
