//! What makes sshd read files of keys that it passes over: one command that mends each path at fault. Root follows nothing that the user can
//! put there: what lies below a folder of the user's is handed over by `chown -h`, and its mode is changed as the user. Paths for root are
//! those of the configuration, never those that the user's links lead to.

use crate::subsystem::sshd::facts::chain::{Kind, Link, Owner, shown};
use crate::subsystem::sshd::facts::passed_over::{Ground, PassedOver, PathFault, PathFaults, Wrong};
use crate::text::shell::word;

/// In a session of its own (setsid(1)), and waited for.
const APART: &str = "setsid --wait";

/// The user whose keys they are.
#[derive(Clone, Copy)]
pub(super) struct Whose<'a> {
    pub(super) user: &'a str,
    pub(super) uid: u32,
    pub(super) home: &'a str,
}

/// The commands so far, each with the paths that it takes, and what is to be done besides.
#[derive(Default)]
struct Advice {
    commands: Vec<(String, Vec<String>)>,
    besides: Vec<String>,
}

/// The advice for all of these files.
pub(super) fn mend<'a>(whose: Whose, files: impl Iterator<Item = &'a PassedOver>) -> String {
    let mut advice = Advice::default();
    for file in files {
        match file {
            PassedOver::Other(why) => advice.besides(format!("mend what keeps sshd from the file: {}", shown(why))),
            PassedOver::Paths(paths) => advice.paths(whose, paths),
        }
    }
    advice.text()
}

impl Advice {
    fn paths(&mut self, whose: Whose, paths: &PathFaults) {
        let PathFaults { path, real, link, .. } = paths;
        let all = [path, real].into_iter().chain(link.iter().map(|link| &link.path));
        let all = all.chain(paths.faults.iter().map(|fault| &fault.path));
        if all.into_iter().any(|path| shown(path) != **path) {
            return self.besides("its path is too long or holds characters that are not shown: mend it by hand".to_owned());
        }
        let own = |fault: &PathFault| fault.owner.uid == whose.uid && whose.uid != 0;
        if paths.faults.iter().any(|fault| fault.ground == Ground::Linked && !own(fault)) {
            return self.linked(whose, paths);
        }
        for fault in &paths.faults {
            self.fault(whose, fault);
        }
    }

    /// Where a link of the user's leads, root changes nothing: it may be anything.
    fn linked(&mut self, whose: Whose, paths: &PathFaults) {
        let PathFaults { path, link, .. } = paths;
        let below_home = |link: &&Link| {
            let home = whose.home.trim_end_matches('/');
            link.path.strip_prefix(home).is_some_and(|rest| rest.starts_with('/'))
                && std::path::Path::new(path).starts_with(&link.path)
        };
        let Some(Link { path: link, .. }) = link.as_deref().filter(below_home) else {
            return self.besides(format!(
                "`namei -l {}` shows the links on the way: what they lead to must be {}'s or root's, and nobody else may write to it",
                word(path),
                whose.user
            ));
        };
        // No copy of what it leads to: whoever can write there decides whose keys they are, also between a look at them and the copy.
        self.command(whose.run("rm"), link);
        self.besides(format!("then put a public key of {} into {path}, one that is known to be theirs", whose.user));
    }

    fn fault(&mut self, whose: Whose, fault: &PathFault) {
        let PathFault { path, kind, owner, wrong, ground, in_home, .. } = fault;
        let Whose { user, uid, .. } = whose;
        let for_everybody = *kind == Kind::Folder && owner.mode & 0o1002 == 0o1002;
        let of_another = !in_home && *wrong == Wrong::Owner && path.starts_with("/home/");
        match wrong {
            Wrong::NotRegular => {
                return self.besides(format!("put a file with a public key of {user} in the place of {}", word(path)));
            }
            Wrong::NotByMode => {
                let at = word(path);
                return self.besides(format!("`getfacl {at}`: an access list or a security module closes {at} to {user}"));
            }
            Wrong::Owner | Wrong::Writable | Wrong::NotEntered | Wrong::NotRead => {}
        }
        if for_everybody || of_another {
            return self
                .besides(format!("keep the keys of {user} elsewhere (AuthorizedKeysFile): {}", word(path)) + " is not for them");
        }
        let own = owner.uid == uid;
        let hand_over = format!("{}:", word(user));
        match ground {
            Ground::Users(entry) => {
                if !own {
                    self.command(format!("chown -Rh {hand_over}"), entry);
                    let at = word(entry);
                    self.besides(format!(
                        "all that is there becomes {user}'s: look first, `find {at} ! -user {} -ls`",
                        word(user)
                    ));
                }
                self.mode(&whose.run("chmod"), fault, 'u');
            }
            Ground::Linked => self.mode(&whose.run("chmod"), fault, 'u'),
            Ground::Roots | Ground::Mended => {
                if *ground == Ground::Mended && !own {
                    self.command("test ! -h".to_owned(), path);
                }
                if own {
                    self.mode(&whose.run("chmod"), fault, 'u');
                } else if *wrong == Wrong::Writable {
                    self.command("chmod go-w".to_owned(), path);
                } else if *in_home {
                    self.command(format!("chown -h {hand_over}"), path);
                    self.mode(&whose.run("chmod"), fault, 'u');
                } else {
                    if owner.uid != 0 {
                        self.command("chown -h root".to_owned(), path);
                    }
                    self.mode("chmod", fault, 'a');
                }
            }
        }
        if *wrong == Wrong::NotEntered {
            self.besides("then ask again: what is below was not seen".to_owned());
        }
    }

    /// Takes away what others may write, and gives those (`u` or `a`) who read or go on here what they need.
    fn mode(&mut self, program: &str, fault: &PathFault, to: char) {
        let PathFault { path, kind, owner: Owner { mode, .. }, wrong, .. } = fault;
        let others = if matches!(wrong, Wrong::Owner | Wrong::Writable) { 0o022 } else { 0o002 };
        let (letter, bit) = if *kind == Kind::Folder { ('x', 0o1) } else { ('r', 0o4) };
        let bits = if to == 'u' { mode >> 6 } else { *mode };
        let less = (mode & others != 0).then(|| "go-w".to_owned());
        let more = (bits & bit == 0).then(|| format!("{to}+{letter}"));
        let changes: Vec<String> = less.into_iter().chain(more).collect();
        if !changes.is_empty() {
            self.command(format!("{program} {}", changes.join(",")), path);
        }
    }

    fn command(&mut self, program: String, path: &str) {
        if self.commands.iter().any(|(other, paths)| *other == program && paths.iter().any(|other| other == path)) {
            return;
        }
        let takes_many = program.contains("chmod ") || program.contains("chown ");
        match self.commands.last_mut() {
            Some((last, paths)) if *last == program && takes_many => paths.push(path.to_owned()),
            _ => self.commands.push((program, vec![path.to_owned()])),
        }
    }

    fn besides(&mut self, text: String) {
        if !self.besides.contains(&text) {
            self.besides.push(text);
        }
    }

    fn text(self) -> String {
        let one = |(program, paths): &(String, Vec<String>)| {
            let paths: Vec<String> = paths.iter().map(|path| word(path)).collect();
            let apart = if program.starts_with(APART) { " </dev/null >/dev/null 2>&1" } else { "" };
            format!("{program} {}{apart}", paths.join(" "))
        };
        let commands: Vec<String> = self.commands.iter().map(one).collect();
        let commands = (!commands.is_empty()).then(|| format!("`{}`", commands.join(" && ")));
        commands.into_iter().chain(self.besides).collect::<Vec<_>>().join("; ")
    }
}

impl Whose<'_> {
    /// The program run as the user, who gets neither root's terminal, into which a process could type (`ioctl_tty(2)`, `TIOCSTI`), nor a
    /// descriptor of it.
    fn run(&self, program: &str) -> String {
        if self.uid == 0 { program.to_owned() } else { format!("{APART} runuser -u {} -- {program}", word(self.user)) }
    }
}

#[cfg(test)]
#[path = "mend_files_tests.rs"]
mod tests;
