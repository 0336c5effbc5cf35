//! What becomes of a line that sshd does not take. It is turned into a comment only where that opens nothing: a line whose keyword keeps
//! nobody out, and a `Match` line with its whole block, where the block only opens. Everything else is reported with the likely keyword.
//! Must not guess what a person meant and write it.

use crate::subsystem::sshd::config::keyword::{self, WrongValue};
use crate::subsystem::sshd::config::{CRITERIA, Document, Line, Tree};
use crate::subsystem::sshd::quoting::line as quoted;
use crate::text::quoted::Text;

/// Keywords that neither let in nor keep out, whatever their value (`sshd_config(5)`): names, texts, numbers for display. `ClientAlive*`,
/// `LogLevel` and the like are not among them: without such a line a session ends later, or a log is shorter; nor is `AcceptEnv`, which takes the
/// place of a longer list inside a Match block.
const HARMLESS: [&str; 11] = [
    "banner",
    "compression",
    "debianbanner",
    "fingerprinthash",
    "pidfile",
    "printlastlog",
    "printmotd",
    "tcpkeepalive",
    "versionaddendum",
    "x11displayoffset",
    "xauthlocation",
];

/// The values of keywords that could not open more: without such a line in a block nobody gets more.
const WIDEST: [(&str, &[&str]); 24] = [
    ("allowagentforwarding", &["yes"]),
    ("allowstreamlocalforwarding", &["yes", "all"]),
    ("allowtcpforwarding", &["yes", "all"]),
    ("authenticationmethods", &["any"]),
    ("chrootdirectory", &["none"]),
    ("disableforwarding", &["no"]),
    ("forcecommand", &["none"]),
    ("gatewayports", &["yes"]),
    ("gssapiauthentication", &["yes"]),
    ("hostbasedauthentication", &["yes"]),
    ("kbdinteractiveauthentication", &["yes"]),
    ("kerberosauthentication", &["yes"]),
    ("passwordauthentication", &["yes"]),
    ("permitemptypasswords", &["yes"]),
    ("permitlisten", &["any"]),
    ("permitopen", &["any"]),
    ("permitrootlogin", &["yes"]),
    ("permittty", &["yes"]),
    ("permittunnel", &["yes"]),
    ("permituserrc", &["yes"]),
    ("pubkeyauthentication", &["yes"]),
    ("refuseconnection", &["no"]),
    ("x11forwarding", &["yes"]),
    ("x11uselocalhost", &["no"]),
];

/// What is done about the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// These lines become comments: the line itself, and those of its block that say something.
    Comment {
        /// In order; the first is the one that sshd named.
        lines: Vec<usize>,
        /// It could name a port: what sshd listens on must stay as it is.
        port: bool,
    },
    /// A person corrects it.
    ByHand {
        /// What is wrong, and what is likely meant.
        what: Text,
        /// Why sshfix leaves it.
        why: Text,
    },
}

/// What the first word of a line may mean.
struct Word {
    /// As it is written.
    written: String,
    /// The keyword itself, else all that are like it.
    keywords: Vec<&'static str>,
    /// Whether sshd has a keyword of this name.
    known: bool,
}

impl Word {
    /// Also of lines that are no directive: the first word is up to a blank, a quote or `=` (misc.c, `strdelim`).
    fn of(line: &Line) -> Self {
        let text = line.to_string();
        let text = text.trim_start_matches('"');
        let end = text.find(|c: char| c.is_whitespace() || matches!(c, '"' | '=')).unwrap_or(text.len());
        let written = text.get(..end).unwrap_or_default().to_owned();
        match keyword::find(&written) {
            Some(found) => Self { written, keywords: vec![found.name], known: true },
            None => Self { keywords: keyword::all_near(&written), written, known: false },
        }
    }

    fn is(&self, name: &str) -> bool {
        self.keywords.iter().any(|keyword| keyword.eq_ignore_ascii_case(name))
    }

    /// Whatever of them was meant, it keeps nobody out. `but` is judged elsewhere.
    fn harmless_but(&self, but: &[&str]) -> bool {
        let harmless = |keyword: &&str| HARMLESS.contains(&keyword.to_ascii_lowercase().as_str());
        let judged = |keyword: &&str| but.iter().any(|other| other.eq_ignore_ascii_case(keyword));
        !self.keywords.is_empty() && self.keywords.iter().all(|keyword| harmless(keyword) || judged(keyword))
    }
}

/// What is done about a line of a file of this tree; an error where there is no such line.
pub fn judge(tree: &Tree, file: &str, number: usize) -> Result<Broken, String> {
    let document = tree.files.get(file).ok_or_else(|| format!("{file} was not read"))?;
    let line = document.line(number).ok_or_else(|| format!("{file} has no line {number}"))?;
    if !says(line) {
        return Err(format!("sshd complains of {file} line {number}, which is a comment"));
    }
    let word = Word::of(line);
    // sshd reads C strings, and sees less of such a line than stands there.
    if line.bytes().contains(&0) {
        let what = format!("line {number} of {file} has a NUL byte: correct it").into();
        return Ok(Broken::ByHand { what, why: "what sshd reads of it is not known".into() });
    }
    if let Some(unseen) = line.to_string().chars().find(|c| is_unseen(*c)) {
        let code = u32::from(unseen);
        let what = format!("line {number} of {file} has a character that cannot be seen (U+{code:04X}): type the line again");
        return Ok(Broken::ByHand { what: what.into(), why: "what is meant without that character is not known".into() });
    }
    if word.is("match") && word.harmless_but(&["match"]) {
        return Ok(block(document, file, number, line, &word));
    }
    if word.harmless_but(&["port"]) {
        return Ok(Broken::Comment { lines: vec![number], port: word.is("port") });
    }
    let why = "without this line sshd could let more in than is meant".into();
    let what = misplaced(document, number, line, &word).unwrap_or_else(|| meant(line, &word, file, number));
    Ok(Broken::ByHand { what, why })
}

/// Blanks that are none for sshd, and marks of no width.
fn is_unseen(c: char) -> bool {
    !c.is_ascii() && (c.is_whitespace() || c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}'))
}

/// A line that sshd takes outside of Match blocks and that stands in one.
fn misplaced(document: &Document, number: usize, line: &Line, word: &Word) -> Option<Text> {
    let ([name], true) = (word.keywords.as_slice(), word.known) else { return None };
    let directive = line.directive().ok().flatten()?;
    let fits = !keyword::in_match(name) && keyword::check(name, &directive.arguments).is_ok();
    let before = document.lines().take_while(|(at, _)| *at < number);
    let (at, block) = before.filter(|(_, line)| says(line) && Word::of(line).is("match")).last().filter(|_| fits)?;
    let inside = Text::from(format!("{name} may not stand in a Match block. Line {number} is inside `"));
    Some(inside + quoted(block.to_string().trim()) + format!("`: move it above line {at}"))
}

/// A `Match` line with everything up to the next one, or to the end of its file, where its block ends, too.
fn block(document: &Document, file: &str, number: usize, first: &Line, word: &Word) -> Broken {
    let mut lines = vec![number];
    let saying = document.lines().skip(number).filter(|(_, line)| says(line));
    for (at, line) in saying.take_while(|(_, line)| !Word::of(line).is("match")) {
        if !only_opens(line) {
            let why = Text::from("its block holds `")
                + quoted(&line.to_string())
                + format!("` (line {at}), without which sshd could let more in than is meant");
            return Broken::ByHand { what: meant(first, word, file, number), why };
        }
        lines.push(at);
    }
    Broken::Comment { lines, port: false }
}

/// Neither empty nor a comment.
fn says(line: &Line) -> bool {
    !matches!(line.directive(), Ok(None))
}

/// Whether nobody gets more without this line of a block. What an `Include` names is not looked at: it stays a person's.
fn only_opens(line: &Line) -> bool {
    let word = Word::of(line);
    if word.harmless_but(&[]) {
        return true;
    }
    let Ok(Some(directive)) = line.directive() else { return false };
    let name = keyword::canonical(&directive.keyword);
    let values = WIDEST.iter().find(|(widest, _)| *widest == name).map_or(&[][..], |(_, values)| values);
    match directive.arguments.as_slice() {
        [value] => values.iter().any(|widest| widest.eq_ignore_ascii_case(value)),
        _ => false,
    }
}

/// `AlowUsers` is no keyword of sshd, and probably means `AllowUsers`: make line 3 of FILE `AllowUsers bob`
fn meant(line: &Line, word: &Word, file: &str, number: usize) -> Text {
    let Word { written, keywords, known } = word;
    let text = line.to_string();
    let edit = |to: String| Text::from(format!("make line {number} of {file} `")) + quoted(&to) + "`";
    let as_it_is = || Text::from("`") + quoted(&text);
    if word.is("match") {
        let first = if *known { written.as_str() } else { "Match" };
        return match criteria(&text, written, first) {
            Some(corrected) => {
                let probably = as_it_is() + "` is no Match line, and probably means `" + quoted(&corrected) + "`: ";
                probably + edit(corrected)
            }
            None => {
                as_it_is()
                    + format!(
                        "` is no Match line that sshd takes; after Match stand {} or all: correct line {number} of {file}",
                        CRITERIA.join(", ")
                    )
            }
        };
    }
    match keywords.as_slice() {
        [] => {
            let none = format!("` is no keyword of this sshd, and none is like it: correct line {number} of {file}");
            Text::from("`") + quoted(written) + none
        }
        [name, ..] if !known => {
            let corrected = text.replacen(written.as_str(), name, 1);
            Text::from("`") + quoted(written) + format!("` is no keyword of sshd, and probably means {name}: ") + edit(corrected)
        }
        [name, ..] => {
            let values = line.directive().ok().flatten().map(|directive| directive.arguments).unwrap_or_default();
            let takes = match keyword::check(name, &values) {
                Err(wrong) => {
                    let WrongValue { keyword, value, takes } = wrong;
                    Text::from("`") + quoted(&value) + format!("` is no value of {keyword}, which takes {takes}")
                }
                Ok(()) => Text::from("sshd does not take `") + quoted(&text) + "`",
            };
            takes + format!(": correct line {number} of {file}")
        }
    }
}

/// The `Match` line with every criterion that is misspelt in the words of the manual; `None` where one is like none of them.
fn criteria(text: &str, written: &str, first: &str) -> Option<String> {
    let rest = text.strip_prefix(written)?;
    let mut words = rest.split_ascii_whitespace();
    let mut corrected = vec![first.to_owned()];
    while let Some(word) = words.next() {
        if word.starts_with('#') {
            break;
        }
        if word.eq_ignore_ascii_case("all") {
            corrected.push(word.to_owned());
            continue;
        }
        let (name, pattern) = word.split_once('=').map_or((word, None), |(name, pattern)| (name, Some(pattern)));
        let near =
            CRITERIA.iter().map(|known| (keyword::distance(&name.to_ascii_lowercase(), &known.to_ascii_lowercase()), known));
        let (away, known) = near.min()?;
        if away > 2.min(name.len() / 3) {
            return None;
        }
        corrected.push((*known).to_owned());
        if *known != "Invalid-User" {
            corrected.push(pattern.or_else(|| words.next())?.to_owned());
        }
    }
    let line = corrected.join(" ");
    (corrected.len() > 1 && line != text).then_some(line)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::as_conversions, clippy::cast_possible_truncation)]

    use proptest::prelude::*;

    use super::*;
    use crate::subsystem::sshd::config::{Client, Matching, evaluate, user_pattern};

    const FILE: &str = "/etc/ssh/sshd_config";

    fn judged(text: &str, number: usize) -> Broken {
        let mut tree = Tree::new(FILE);
        tree.files.insert(FILE.to_owned(), Document::parse(text.as_bytes()));
        judge(&tree, FILE, number).unwrap()
    }

    #[track_caller]
    fn comments(text: &str, number: usize, want: &[usize]) {
        match judged(text, number) {
            Broken::Comment { lines, .. } => assert_eq!(lines, want, "{text}"),
            Broken::ByHand { what, why } => panic!("{text}: {what} ({why})"),
        }
    }

    #[track_caller]
    fn by_hand(text: &str, number: usize, words: &[&str]) {
        let Broken::ByHand { what, why } = judged(text, number) else { panic!("`{text}` became a comment") };
        for word in words {
            assert!(format!("{what} ({why})").contains(word), "{text}: {word}: {what} ({why})");
        }
    }

    #[test]
    fn only_what_keeps_nobody_out_becomes_a_comment() {
        for line in ["Banner", "Baner /etc/issue", "PrintMotd maybe", "Banner \"x", "  VersionAdendum x", "PidFile"] {
            comments(&format!("# x\n{line}\n"), 2, &[2]);
        }
        assert_eq!(judged("Port many\n", 1), Broken::Comment { lines: vec![1], port: true });
        for (line, words) in [
            ("AlowUsers bob", &["probably means AllowUsers", "`AllowUsers bob`", "line 1 of /etc/ssh/sshd_config"][..]),
            ("DenyUser x", &["DenyUsers x"]),
            ("PermitRootLogn no", &["PermitRootLogin no"]),
            ("PermitRootLogin nah", &["`nah` is no value of PermitRootLogin, which takes yes, no"]),
            ("PasswordAuthentication noo", &["takes yes, no"]),
            ("MaxAuthTries abc", &["whole number"]),
            ("ListenAdress 10.0.0.1", &["ListenAddress 10.0.0.1"]),
            ("ListenAddress 300.0.0.1", &["correct line 1"]),
            ("Include", &["correct line 1"]),
            ("Weather fine", &["none is like it"]),
            ("PerSourcePenalties authfail:x", &["correct line 1"]),
            ("Mach x", &["could let more in"]),
            ("ClientAliveIntervl 60", &["ClientAliveInterval 60"]),
        ] {
            by_hand(line, 1, words);
        }
    }

    #[test]
    fn a_line_in_the_wrong_place_and_a_character_nobody_sees_are_named() {
        by_hand("Match User git\nMaxStartups 10\n", 2, &["may not stand in a Match block", "`Match User git`", "above line 1"]);
        by_hand("Match User git\nUsePAM maybe\n", 2, &["is no value of UsePAM"]);
        by_hand("Match User git\nPermitRootLogin nah\n", 2, &["is no value of PermitRootLogin"]);
        for (text, code) in [("PasswordAuthentication\u{a0}no", "U+00A0"), ("\u{feff}UsePAM yes", "U+FEFF")] {
            by_hand(text, 1, &[code, "type the line again"]);
        }
        by_hand("DenyUsers m\u{fc}ller \"", 1, &["correct line 1"]);
    }

    /// Lines that people write, in the words of the manual.
    const LINES: [&str; 18] = [
        "Match User alice",
        "Match Address 10.0.0.0/8",
        "Match User bob Address 10.0.0.0/8",
        "Match all",
        "PermitRootLogin yes",
        "PermitRootLogin no",
        "PasswordAuthentication yes",
        "PasswordAuthentication no",
        "X11Forwarding yes",
        "X11Forwarding no",
        "AllowUsers alice",
        "AllowUsers root",
        "DenyUsers bob",
        "ForceCommand /bin/false",
        "ForceCommand none",
        "Banner /x",
        "PrintMotd no",
        "Port 22",
    ];

    /// The line with one letter of its keyword, or of the first word behind it, left out, doubled or swapped with the next.
    fn misspelt(line: &str, second: bool, at: usize, how: u8) -> String {
        let mut words: Vec<Vec<char>> = line.split(' ').map(|word| word.chars().collect()).collect();
        let word = &mut words[usize::from(second)];
        let at = at % word.len();
        match how {
            0 => _ = word.remove(at),
            1 => word.insert(at, word[at]),
            _ if at + 1 < word.len() => word.swap(at, at + 1),
            _ => word.push('x'),
        }
        words.into_iter().map(|word| word.into_iter().collect::<String>()).collect::<Vec<_>>().join(" ")
    }

    fn parsed(lines: &[String]) -> Tree {
        let mut tree = Tree::new(FILE);
        tree.files.insert(FILE.to_owned(), Document::parse(format!("{}\n", lines.join("\n")).as_bytes()));
        tree
    }

    /// What a client gets, larger for more: root's login, passwords, X11, the lists, a command of their own.
    fn gets(tree: &Tree, user: &str, address: &str) -> [u8; 6] {
        let client = Client {
            user: user.to_owned(),
            groups: Some(Vec::new()),
            host: address.to_owned(),
            address: address.parse().unwrap(),
            local_address: None,
            local_port: 22,
            is_root: user == "root",
            interface: None,
        };
        let settings = evaluate(tree, &[], Some(&client)).unwrap();
        let all = |keyword: &str| settings.get(keyword).into_iter().flatten().flat_map(|line| &line.arguments);
        let one = |keyword: &str, default: &str| all(keyword).next().map_or(default.to_owned(), String::clone);
        let named = |keyword: &str| all(keyword).any(|pattern| user_pattern(&client, pattern) == Matching::Yes);
        [
            ["no", "prohibit-password", "yes"]
                .iter()
                .position(|value| one("permitrootlogin", "prohibit-password") == *value)
                .unwrap() as u8,
            u8::from(one("passwordauthentication", "yes") == "yes"),
            u8::from(one("x11forwarding", "no") == "yes"),
            u8::from(all("allowusers").next().is_none() || named("allowusers")),
            u8::from(!named("denyusers")),
            u8::from(one("forcecommand", "none") == "none"),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// Whatever was meant: nobody gets more by the comment than by the line as it was meant.
        #[test]
        fn no_comment_gives_anybody_more_than_was_meant(
            picked in prop::collection::vec(0..LINES.len(), 1..9),
            (which, second, at, how) in (any::<prop::sample::Index>(), any::<bool>(), 0..20_usize, 0..3_u8),
        ) {
            let meant: Vec<String> = picked.iter().map(|line| LINES[*line].to_owned()).collect();
            let which = which.index(meant.len());
            let mut broken = meant.clone();
            broken[which] = misspelt(&meant[which], second && meant[which].starts_with("Match "), at, how);
            let mut tree = parsed(&broken);
            let said = Word::of(&Line::new(broken[which].as_str()));
            prop_assume!(broken[which] != meant[which] && (!said.known || said.is("match")));
            if let Broken::Comment { lines, .. } = judge(&tree, FILE, which + 1).unwrap() {
                let document = tree.files.get_mut(FILE).unwrap();
                for line in lines {
                    document.replace(line, "#");
                }
                for user in ["root", "alice", "bob"] {
                    for address in ["10.1.2.3", "192.0.2.1"] {
                        let (now, then) = (gets(&tree, user, address), gets(&parsed(&meant), user, address));
                        prop_assert!(now.iter().zip(then).all(|(now, then)| *now <= then), "{meant:?} {broken:?} {user} {address}: {now:?} {then:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_match_line_that_becomes_a_comment_alone_gives_its_block_to_everybody() {
        let lines = |first: &str| parsed(&[first.to_owned(), "PermitRootLogin yes".to_owned()]);
        let (meant, alone) = (lines("Match Address 10.0.0.0/8"), lines("# Match Adress 10.0.0.0/8"));
        assert!(gets(&alone, "root", "192.0.2.1")[0] > gets(&meant, "root", "192.0.2.1")[0]);
    }

    #[test]
    fn a_match_line_takes_its_whole_block_with_it_or_stays() {
        let opens = "Port 22\nMatch Adress 10.0.0.0/8\n  PermitRootLogin yes\n\n# x\n\tPasswordAuthentication yes\nMatch all\nX11Forwarding yes\n";
        comments(opens, 2, &[2, 3, 6]);
        comments("Match Adress 10.0.0.0/8\nPermitRootLogin yes", 1, &[1, 2]);
        comments("Mtach User bob\nX11Forwarding yes\nmatch User eve\n", 1, &[1, 2]);
        comments("Match\n", 1, &[1]);
        let meant = &["probably means `Match Address 10.0.0.0/8`", "could let more in"];
        for line in [
            "PasswordAuthentication no",
            "ForceCommand /bin/false",
            "AllowUsers bob",
            "PermitRootLogin no",
            "Include /x",
            "Wether y",
        ] {
            by_hand(&format!("Match Adress 10.0.0.0/8\n  X11Forwarding yes\n  {line}\n"), 1, meant);
        }
        by_hand("Match Usr bob Addres=10.0.0.1\nDenyUsers x\n", 1, &["`Match User bob Address 10.0.0.1`"]);
        by_hand("Match Weather fine\nDenyUsers x\n", 1, &["after Match stand User, Group"]);
    }
}
