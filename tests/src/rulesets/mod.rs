//! Rulesets for the kernel and the model to disagree about: random ones of every packet filter side by side, and saved ones as text.
//! The same seed gives the same ruleset. Knows the network of `lab::Wire`; judges nothing.

#![allow(
    clippy::format_push_string,
    clippy::match_same_arms,
    clippy::cast_possible_truncation,
    reason = "text is put together here"
)]

mod nft;
mod xtables;

use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A small generator (xorshift64*): a seed that fails can be run again.
#[derive(Clone, Debug)]
pub struct Dice {
    state: u64,
    rare: usize,
}

/// One rule in so many holds something that few servers have.
const RARE: usize = 30;

impl Dice {
    /// The dice of one ruleset of a campaign.
    pub fn new(seed: u64, number: u64) -> Self {
        // Neighbouring numbers must not give neighbouring dice, and 0 gives only zeros.
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number.wrapping_mul(0xbf58_476d_1ce4_e5b9)) | 1;
        state ^= state >> 31;
        Dice { state: state.wrapping_mul(0x94d0_49bb_1331_11eb) | 1, rare: RARE }
    }

    /// The dice of a test with inputs of its own.
    pub fn of(seed: u64) -> Self {
        Dice { state: seed, rare: RARE }
    }

    /// From 0 to one less than `sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }

    /// Lets one rule in so many hold something rare, to look at nothing else for a while.
    #[must_use]
    pub fn with_rare(self, one_in: usize) -> Self {
        Dice { rare: one_in.max(1), ..self }
    }

    /// Whether something rare is taken; `times` as seldom as in a rule.
    fn rare(&mut self, times: usize) -> bool {
        let sides = self.rare * times;
        self.once_in(sides)
    }

    /// True once in so many throws.
    pub fn once_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }

    /// One of them.
    pub fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len())]
    }

    /// Each of them or not.
    pub fn some<'a>(&mut self, of: &[&'a str]) -> Vec<&'a str> {
        of.iter().copied().filter(|_| self.roll(2) == 0).collect()
    }
}

/// A packet filter, and the program that loads its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stack {
    /// `ipset restore`
    Ipset,
    /// `nft -f`
    Nft,
    /// `iptables-nft-restore`
    Compat4,
    /// `ip6tables-nft-restore`
    Compat6,
    /// `iptables-legacy-restore`
    Legacy4,
    /// `ip6tables-legacy-restore`
    Legacy6,
}

impl Stack {
    /// In the order in which they are loaded.
    pub const ALL: [Stack; 6] = [Stack::Ipset, Stack::Nft, Stack::Compat4, Stack::Compat6, Stack::Legacy4, Stack::Legacy6];

    fn command(self) -> &'static [&'static str] {
        match self {
            Stack::Ipset => &["ipset", "restore"],
            Stack::Nft => &["nft", "-f", "-"],
            Stack::Compat4 => &["iptables-nft-restore", "-n"],
            Stack::Compat6 => &["ip6tables-nft-restore", "-n"],
            Stack::Legacy4 => &["iptables-legacy-restore", "-w", "20"],
            Stack::Legacy6 => &["ip6tables-legacy-restore", "-w", "20"],
        }
    }

    /// Its name in reports and saved files.
    pub fn name(self) -> &'static str {
        match self {
            Stack::Ipset => "ipset",
            Stack::Nft => "nft",
            Stack::Compat4 => "iptables-nft",
            Stack::Compat6 => "ip6tables-nft",
            Stack::Legacy4 => "iptables-legacy",
            Stack::Legacy6 => "ip6tables-legacy",
        }
    }
}

/// What is loaded at once: for each program its own text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// By program, in their order.
    pub parts: Vec<(Stack, String)>,
}

/// As it is saved: a line `=== PROGRAM` before each part.
impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|(stack, text)| write!(f, "=== {}\n{}\n", stack.name(), text.trim_end()))
    }
}

impl Ruleset {
    /// A random one.
    pub fn random(dice: &mut Dice) -> Self {
        let mut parts = Vec::new();
        let sets = dice.once_in(3);
        if sets {
            parts.push((Stack::Ipset, xtables::sets(dice)));
        }
        // Mostly one or two, so that something gets through.
        let (nft, compat, legacy) = match dice.roll(8) {
            0..=2 => (true, false, false),
            3 => (false, true, false),
            4 => (false, false, true),
            5 => (true, true, false),
            6 => (true, false, true),
            _ => (dice.once_in(2), true, true),
        };
        if nft {
            parts.push((Stack::Nft, nft::tables(dice)));
        }
        for (wanted, stacks, of_nft) in
            [(compat, [Stack::Compat4, Stack::Compat6], true), (legacy, [Stack::Legacy4, Stack::Legacy6], false)]
        {
            if wanted {
                let which = dice.roll(3);
                for (v6, stack) in [false, true].into_iter().zip(stacks) {
                    if which == 2 || v6 == (which == 1) {
                        parts.push((stack, xtables::tables(dice, v6, sets, of_nft)));
                    }
                }
            }
        }
        Ruleset { parts }
    }

    /// One that was saved; lines that begin with `#` before the first part say why.
    ///
    /// # Panics
    /// When it names a program that is not known.
    pub fn parse(text: &str) -> Self {
        let mut parts: Vec<(Stack, String)> = Vec::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("=== ") {
                let stack = Stack::ALL.into_iter().find(|stack| stack.name() == name);
                parts.push((stack.unwrap_or_else(|| panic!("what is `{name}`?")), String::new()));
            } else if let Some((_, part)) = parts.last_mut() {
                part.push_str(line);
                part.push('\n');
            }
        }
        Ruleset { parts }
    }

    /// Whether a part is of this program.
    pub fn has(&self, stack: Stack) -> bool {
        self.parts.iter().any(|(one, _)| *one == stack)
    }

    /// Loads it into this thread's network namespace, which has no rules. The error names the program that refused its part.
    pub fn load(&self) -> Result<(), String> {
        self.parts
            .iter()
            .try_for_each(|(stack, text)| run(stack.command(), text).map_err(|error| format!("{}: {error}", stack.name())))
    }

    /// The same, without the rules that their program does not take: those it names by line. For random ones, which nobody can
    /// promise to be all of them sensible.
    pub fn load_what_is_taken(&mut self) -> Result<(), String> {
        for (stack, text) in &mut self.parts {
            for attempt in 0.. {
                let Err(error) = run(stack.command(), text) else { break };
                let place =
                    |text: &str, error: &str| -> Option<usize> { line_of(error).filter(|line| *line <= text.lines().count()) };
                let Some(line) = place(text, &error).filter(|_| attempt < 40) else {
                    return Err(format!("{}: {error}", stack.name()));
                };
                let removed = text.lines().nth(line - 1).unwrap_or_default();
                if removed.starts_with(['*', ':', '}']) || removed.ends_with('{') || removed == "COMMIT" {
                    return Err(format!("{}: {error}: {removed}", stack.name()));
                }
                *text = text.split_inclusive('\n').enumerate().filter(|(at, _)| at + 1 != line).map(|(_, line)| line).collect();
            }
        }
        Ok(())
    }

    /// Takes everything away that `load` made.
    ///
    /// # Panics
    /// When a program fails.
    pub fn unload(&self) {
        let done = |result: Result<(), String>| result.unwrap_or_else(|error| panic!("cannot clean up: {error}\n{self}"));
        if self.parts.iter().any(|(stack, _)| matches!(stack, Stack::Nft | Stack::Compat4 | Stack::Compat6)) {
            done(run(&["nft", "flush", "ruleset"], ""));
        }
        for stack in [Stack::Legacy4, Stack::Legacy6] {
            if self.has(stack) {
                done(run(stack.command(), xtables::EMPTY));
            }
        }
        if self.has(Stack::Ipset) {
            // A list holds on to the sets in it, and rules let go of theirs after a moment: `nft_commit_release` runs from a work queue.
            done(run(&["ipset", "flush"], ""));
            let mut destroyed = run(&["ipset", "destroy"], "");
            for _ in 0..200 {
                if destroyed.is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
                destroyed = run(&["ipset", "destroy"], "");
            }
            done(destroyed);
        }
    }
}

/// The line an error is about: `/dev/stdin:12:3-4: Error: ...` of nft, `line 12: ...` or `at line: 12` of iptables-restore.
fn line_of(error: &str) -> Option<usize> {
    let after =
        error.split_once("/dev/stdin:").or_else(|| error.split_once("at line: ")).or_else(|| error.split_once("line "))?.1;
    after.split(|byte: char| !byte.is_ascii_digit()).next()?.parse().ok()
}

/// Runs a program of /usr/sbin in this thread's network namespace. The error is what it says.
fn run(command: &[&str], input: &str) -> Result<(), String> {
    let program = Path::new("/usr/sbin").join(command[0]);
    let mut child = Command::new(program)
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).map_err(|error| error.to_string())?;
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_ruleset_is_the_one_that_was_generated() {
        for number in 0..200 {
            let one = Ruleset::random(&mut Dice::new(7, number));
            let two = Ruleset::parse(&format!("# why\n{one}"));
            assert_eq!(one.to_string(), two.to_string());
            assert_eq!(one, Ruleset::random(&mut Dice::new(7, number)), "the same seed gives the same ruleset");
        }
    }
}
