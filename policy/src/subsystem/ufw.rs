//! ufw's own rules, as ufw-framework(8) keeps them: user.rules and user6.rules hold iptables lines, each rule's under a tuple that
//! says it in ufw's words. Finds the ufw rule behind a rule of the kernel; changes nothing, and never guesses.

use std::borrow::Cow;

/// What user.rules and user6.rules say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// user.rules, by the lines of the chain ufw-user-input.
    pub v4: Vec<Line>,
    /// user6.rules, by the lines of the chain ufw6-user-input.
    pub v6: Vec<Line>,
}

/// One rule that ufw put into its chain of incoming user rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The source after `-s`, as written there.
    pub source: Option<String>,
    /// The target after `-j`.
    pub target: Option<String>,
    /// The rule in ufw's words, for `ufw delete`: `deny from 203.0.113.7`. `None` where the tuple was not understood.
    pub rule: Option<String>,
}

/// The chain of incoming user rules.
pub fn chain(v6: bool) -> &'static str {
    if v6 { "ufw6-user-input" } else { "ufw-user-input" }
}

/// Reads one of the two files.
pub fn parse(text: &str, v6: bool) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut rule = None;
    let append = format!("-A {} ", chain(v6));
    for line in text.lines() {
        if let Some(tuple) = line.strip_prefix("### tuple ### ") {
            rule = words(tuple);
        } else if line.starts_with("### END RULES") {
            rule = None;
        } else if let Some(rest) = line.strip_prefix(append.as_str()) {
            let mut words = rest.split_whitespace();
            let (mut source, mut target) = (None, None);
            while let Some(word) = words.next() {
                match word {
                    "-s" => source = words.next().map(str::to_owned),
                    "-j" => target = words.next().map(str::to_owned),
                    _ => {}
                }
            }
            lines.push(Line { source, target, rule: rule.clone() });
        }
    }
    lines
}

/// The rule in ufw's words (ufw(8), RULE SYNTAX). A tuple is
/// `ACTION[_log|_log-all] PROTOCOL DPORT DST SPORT SRC [DAPP SAPP] in|out[_INTERFACE] [comment=HEX]` (ufw's common.py, `format_rule`).
fn words(tuple: &str) -> Option<String> {
    let plain = |word: &str| word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:/_,%+-@=!".contains(&byte));
    let mut fields: Vec<&str> = tuple.split_whitespace().filter(|word| !word.starts_with("comment=")).collect();
    if !fields.iter().all(|word| plain(word)) {
        return None;
    }
    let direction = fields.pop()?;
    let interface = match direction.split_once('_') {
        None if direction == "in" => String::new(),
        Some(("in", name)) if !name.contains('!') => format!(" in on {name}"),
        _ => return None,
    };
    let (action, protocol, dport, destination, sport, source, apps) = match fields.as_slice() {
        [action, protocol, dport, destination, sport, source] => {
            (action, protocol, dport, destination, sport, source, ("-", "-"))
        }
        [action, protocol, dport, destination, sport, source, dapp, sapp] => {
            (action, protocol, dport, destination, sport, source, (*dapp, *sapp))
        }
        _ => return None,
    };
    let (action, log) = action.split_once('_').map_or((*action, String::new()), |(action, log)| (action, format!(" {log}")));
    if !matches!(action, "allow" | "deny" | "reject" | "limit") {
        return None;
    }
    let place = |address: &str, port: &str, app: &str| {
        let address = if matches!(address, "0.0.0.0/0" | "::/0") { "any" } else { address };
        let app = app.replace("%20", " ");
        match (app.as_str(), port) {
            ("-", "any") => address.to_owned(),
            ("-", port) => format!("{address} port {port}"),
            (app, _) if app.contains(' ') => format!("{address} app '{app}'"),
            (app, _) => format!("{address} app {app}"),
        }
    };
    let mut text = format!("{action}{interface}{log}");
    if *protocol != "any" && apps == ("-", "-") {
        text.extend([" proto ", protocol]);
    }
    text.extend([" from ", &place(source, sport, apps.1)]);
    let to = place(destination, dport, apps.0);
    if to != "any" {
        text.extend([" to ", &to]);
    }
    Some(text)
}

impl State {
    /// The ufw rule behind the rule with this index of ufw's chain of incoming user rules. `count` is how many rules the kernel
    /// has there, `source` and `target` what this one has: where they are not those of the files, the files are not what is loaded.
    pub fn behind(&self, v6: bool, count: usize, index: usize, source: Option<&str>, drops: bool) -> Option<&str> {
        let lines = if v6 { &self.v6 } else { &self.v4 };
        let line = lines.get(index)?;
        let strip = |text: &str| -> Cow<'static, str> {
            let host = if v6 { "/128" } else { "/32" };
            Cow::Owned(text.strip_suffix(host).unwrap_or(text).to_owned())
        };
        let same_source = line.source.as_deref().map(strip) == source.map(strip);
        let same_target = matches!(line.target.as_deref(), Some("DROP" | "REJECT")) == drops;
        (lines.len() == count && same_source && same_target).then_some(line.rule.as_deref()).flatten()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const RULES: &str = "*filter
:ufw-user-input - [0:0]
### RULES ###

### tuple ### limit tcp 22 0.0.0.0/0 any 0.0.0.0/0 in
-A ufw-user-input -p tcp --dport 22 -m conntrack --ctstate NEW -m recent --set
-A ufw-user-input -p tcp --dport 22 -m conntrack --ctstate NEW -m recent --update --seconds 30 --hitcount 6 -j ufw-user-limit
-A ufw-user-input -p tcp --dport 22 -j ufw-user-limit-accept

### tuple ### deny any any 0.0.0.0/0 any 203.0.113.7 in
-A ufw-user-input -s 203.0.113.7 -j DROP

### tuple ### deny any 22 0.0.0.0/0 any 203.0.113.70 in_host0
-A ufw-user-input -i host0 -p tcp --dport 22 -s 203.0.113.70 -j DROP
-A ufw-user-input -i host0 -p udp --dport 22 -s 203.0.113.70 -j DROP

### tuple ### deny_log tcp 22 0.0.0.0/0 any 198.51.100.7 WWW%20Secure - in comment=62616420626f79
-A ufw-user-logging-input -p tcp --dport 22 -s 198.51.100.7 -j RETURN
-A ufw-user-input -p tcp --dport 22 -s 198.51.100.7 -j ufw-user-logging-input
-A ufw-user-input -p tcp --dport 22 -s 198.51.100.7 -j DROP -m comment --comment 'dapp_WWW%20Secure'
### tuple ### deny any any 0.0.0.0/0 any $(reboot) in
-A ufw-user-input -s 10.0.0.1 -j DROP

### END RULES ###
";

    #[test]
    fn a_rule_of_the_kernel_is_said_in_ufws_words() {
        let state = State { v4: parse(RULES, false), v6: Vec::new() };
        let behind = |index, source| state.behind(false, 9, index, source, index >= 3 && index != 6);
        assert_eq!(behind(0, None), Some("limit proto tcp from any to any port 22"));
        assert_eq!(behind(3, Some("203.0.113.7/32")), Some("deny from 203.0.113.7"));
        assert_eq!(behind(4, Some("203.0.113.70")), Some("deny in on host0 from 203.0.113.70 to any port 22"));
        assert_eq!(behind(5, Some("203.0.113.70")), Some("deny in on host0 from 203.0.113.70 to any port 22"));
        assert_eq!(behind(7, Some("198.51.100.7")), Some("deny log from 198.51.100.7 to any app 'WWW Secure'"));
        assert_eq!(behind(8, Some("10.0.0.1")), None, "what is no address is not repeated");
    }

    #[test]
    fn files_that_are_not_what_is_loaded_say_nothing() {
        let state = State { v4: parse(RULES, false), v6: Vec::new() };
        assert_eq!(state.behind(false, 8, 3, Some("203.0.113.7/32"), true), None, "another number of rules");
        assert_eq!(state.behind(false, 9, 3, Some("203.0.113.8/32"), true), None, "another source");
        assert_eq!(state.behind(false, 9, 3, Some("203.0.113.7/32"), false), None, "another target");
        assert_eq!(state.behind(true, 9, 3, Some("203.0.113.7/32"), true), None, "the other family");
    }
}
