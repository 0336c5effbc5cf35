//! What a configuration means for one client, and which line each value comes from. Goes over the files twice, as sshd does: for
//! the global section (`load_server_config`, `parse_server_config`), then for the Match blocks (`parse_server_match_config`).

use std::collections::BTreeMap;

use super::criteria::{Client, Matching, match_line};
use super::keyword::{self, Lines, canonical};
use super::line::Directive;
use super::tree::{ConfigError, DEPTH_MAX, Place, Tree};

/// A line that counts for this client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its values.
    pub arguments: Vec<String>,
    /// Where it stands.
    pub at: Place,
    /// The line as it stands there.
    pub text: String,
    /// The `Match` lines it stands under, outermost first.
    pub under: Vec<(Place, String)>,
}

/// The lines that count, by keyword in lower case; more than one only where lines add up.
pub type Settings = BTreeMap<String, Vec<Setting>>;

/// What counts for a client; without one, for a client that nothing but `Match all` matches.
pub fn evaluate(tree: &Tree, options: &[String], client: Option<&Client>) -> Result<Settings, ConfigError> {
    let mut settings = Settings::new();
    for setting in command_line(options)?.into_iter().chain(pass(tree, Pass::Global)?) {
        add(&mut settings, setting);
    }
    // `sshd_config(5)`, `Port`: options of the command line take the place of all lines.
    if let Some(ports) = settings.get_mut("port")
        && ports.iter().any(|setting| setting.at.line == 0)
    {
        ports.retain(|setting| setting.at.line == 0);
    }
    let Some(client) = client else { return Ok(settings) };
    let mut matched = Settings::new();
    for setting in pass(tree, Pass::Match(client))? {
        add(&mut matched, setting);
    }
    // servconf.c, `copy_set_server_options`: what a block sets takes the place of the global value, whole lists included.
    settings.extend(matched.into_iter().filter(|(keyword, _)| keyword::in_match(keyword)));
    Ok(settings)
}

/// Every line of the global section and of `Match all`, in order, also those that do not count because an earlier one does.
pub fn global_lines(tree: &Tree) -> Result<Vec<(String, Setting)>, ConfigError> {
    pass(tree, Pass::Global)
}

fn add(settings: &mut Settings, (keyword, setting): (String, Setting)) {
    let adds_up = keyword::lines(&keyword) != Lines::First;
    let all = settings.entry(keyword).or_default();
    if all.is_empty() || adds_up {
        all.push(setting);
    }
}

/// `-o Keyword=value` and `-p PORT`, which come before every line.
fn command_line(options: &[String]) -> Result<Vec<(String, Setting)>, ConfigError> {
    let at = || Place { file: "the command line".to_owned(), line: 0 };
    let mut found = Vec::new();
    let mut words = options.iter();
    while let Some(option) = words.next() {
        let line = match option.as_str() {
            "-4" | "-6" => continue,
            "-o" => words.next().cloned().unwrap_or_default(),
            "-p" => format!("Port {}", words.next().map_or("", String::as_str)),
            "-h" => format!("HostKey {}", words.next().map_or("", String::as_str)),
            _ => {
                words.next();
                continue;
            }
        };
        let directive = super::line::Line::new(line).directive().map_err(|why| ConfigError::Line { at: at(), why })?;
        let Some(Directive { keyword, arguments, .. }) = directive else { continue };
        let text = format!("{option} {keyword} {}", arguments.join(" "));
        found.push((canonical(&keyword), Setting { arguments, at: at(), text, under: Vec::new() }));
    }
    Ok(found)
}

#[derive(Clone, Copy)]
enum Pass<'a> {
    Global,
    Match(&'a Client),
}

/// The state of one pass.
struct Walk<'a> {
    tree: &'a Tree,
    client: Option<&'a Client>,
    found: Vec<(String, Setting)>,
}

fn pass(tree: &Tree, pass: Pass<'_>) -> Result<Vec<(String, Setting)>, ConfigError> {
    let (client, active) = match pass {
        Pass::Global => (None, true),
        Pass::Match(client) => (Some(client), false),
    };
    let mut walk = Walk { tree, client, found: Vec::new() };
    // In the second pass a file is read for its Match blocks only, and so are the files it includes before them.
    walk.file(&tree.main, active, false, &mut Vec::new(), 0)?;
    Ok(walk.found)
}

impl Walk<'_> {
    /// One file. `never`: it is included where nothing counts, so that no Match line of it can either.
    fn file(
        &mut self,
        path: &str,
        mut active: bool,
        never: bool,
        under: &mut Vec<(Place, String)>,
        depth: usize,
    ) -> Result<(), ConfigError> {
        let tree = self.tree;
        let outer = under.len();
        for (number, line) in tree.file(path)?.lines() {
            let at = Place { file: path.to_owned(), line: number };
            let directive = line.directive().map_err(|why| ConfigError::Line { at: at.clone(), why })?;
            let Some(directive) = directive else { continue };
            match canonical(&directive.keyword).as_str() {
                "match" => {
                    under.truncate(outer);
                    under.push((at.clone(), line.to_string()));
                    active = match match_line(&directive, self.client) {
                        Matching::Yes => !never,
                        Matching::No => false,
                        Matching::Unknown(_) if never => false,
                        Matching::Unknown(why) => return Err(ConfigError::Undecided { at, why }),
                    };
                }
                "include" => {
                    if depth + 1 >= DEPTH_MAX {
                        return Err(ConfigError::TooDeep(at));
                    }
                    // An inactive Match block keeps what it includes from counting; the unread global section does not.
                    let in_block = under.len() > outer || outer > 0;
                    for pattern in &directive.arguments {
                        for file in tree.included(pattern)? {
                            self.file(file, active, never || (in_block && !active), under, depth + 1)?;
                        }
                    }
                }
                keyword if active => {
                    let setting = Setting { arguments: directive.arguments, at, text: line.to_string(), under: under.clone() };
                    self.found.push((keyword.to_owned(), setting));
                }
                _ => {}
            }
        }
        under.truncate(outer);
        Ok(())
    }
}
