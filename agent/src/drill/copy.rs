//! The copies that a drill works on: the packet filters' rules, read by their own tools on the host and loaded by them into the drill's
//! network namespace. What cannot be loaded there is named. Reads the host, and writes only where it is called.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::sys::{child, files};

const NFT: &str = "/usr/sbin/nft";
const PATIENCE: Duration = Duration::from_mins(1);
const MOST_OUTPUT: usize = 64 << 20;
/// The tables that iptables-nft makes, which nft cannot load back.
const COMPAT: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];
/// Its own table: what the drill changes is there whatever the host's rules are.
const OWN_TABLE: &str = "table inet sshfix_drill {
    chain input {
        type filter hook input priority 0; policy accept;
        tcp dport 80 drop
        ip saddr 192.0.2.77 tcp dport 22 drop
    }
}
";

/// The programs that load rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Loader {
    Nft,
    Iptables,
    Ip6tables,
    IptablesLegacy,
    Ip6tablesLegacy,
}

impl Loader {
    fn program(self) -> &'static str {
        match self {
            Self::Nft => NFT,
            Self::Iptables => "/usr/sbin/iptables-nft-restore",
            Self::Ip6tables => "/usr/sbin/ip6tables-nft-restore",
            Self::IptablesLegacy => "/usr/sbin/iptables-legacy-restore",
            Self::Ip6tablesLegacy => "/usr/sbin/ip6tables-legacy-restore",
        }
    }

    fn load(self, text: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Nft => tool(NFT, &["-f", "-"], Some(text)),
            Self::Iptables | Self::Ip6tables => tool(self.program(), &[], Some(text)),
            // The host's lock is not for tables that nobody else sees, and cannot be opened under the drill's unit: each has its own.
            Self::IptablesLegacy | Self::Ip6tablesLegacy => {
                tool("/usr/bin/env", &["XTABLES_LOCKFILE=/proc/self/environ", self.program()], Some(text))
            }
        }
    }
}

/// Rules of one kind, as their own tool printed them.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Load {
    /// For people.
    what: String,
    loader: Loader,
    text: String,
}

/// What was read of the host.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    loads: Vec<Load>,
    missing: Vec<String>,
}

fn tool(program: &str, args: &[&str], input: Option<&[u8]>) -> Result<Vec<u8>, String> {
    if !Path::new(program).exists() {
        return Err(format!("{program} is not installed"));
    }
    let output = child::run(Path::new(program), args, input, PATIENCE, MOST_OUTPUT).map_err(|e| e.to_string())?;
    if output.success() {
        return Ok(output.stdout);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(text.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given").chars().take(300).collect())
}

/// Reads every rule of the host.
pub fn read() -> Rules {
    let mut rules = Rules::default();
    let mut part = |what: String, loader: Loader, text: Result<Vec<u8>, String>| match text
        .and_then(|text| String::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned()))
    {
        Ok(text) => rules.loads.push(Load { what, loader, text }),
        Err(why) => rules.missing.push(format!("{what}: {why}")),
    };
    let tables = tool(NFT, &["list", "tables"], None).unwrap_or_default();
    let (mut ip, mut ip6) = (false, false);
    for line in String::from_utf8_lossy(&tables).lines() {
        let ["table", family, name] = line.split_whitespace().collect::<Vec<_>>()[..] else { continue };
        match family {
            "ip" if COMPAT.contains(&name) => ip = true,
            "ip6" if COMPAT.contains(&name) => ip6 = true,
            _ => part(format!("nftables {family} {name}"), Loader::Nft, tool(NFT, &["list", "table", family, name], None)),
        }
    }
    for (wanted, save, load) in [
        (ip, "/usr/sbin/iptables-nft-save", Loader::Iptables),
        (ip6, "/usr/sbin/ip6tables-nft-save", Loader::Ip6tables),
        (legacy("ip"), "/usr/sbin/iptables-legacy-save", Loader::IptablesLegacy),
        (legacy("ip6"), "/usr/sbin/ip6tables-legacy-save", Loader::Ip6tablesLegacy),
    ] {
        if wanted {
            part(format!("the rules of {save}"), load, tool(save, &[], None));
        }
    }
    rules
}

/// Whether there are legacy tables; asking the tool would make them.
fn legacy(family: &str) -> bool {
    fs::read_to_string(format!("/proc/thread-self/net/{family}_tables_names")).is_ok_and(|names| !names.trim().is_empty())
}

impl Rules {
    /// Keeps them for a drill that runs in namespaces which systemd made, where the host's rules are not seen.
    pub fn keep(&self, file: &Path) -> Result<(), String> {
        let text = serde_json::to_vec(self).map_err(|error| error.to_string())?;
        fs::write(file, text).map_err(|error| error.to_string())
    }

    /// What was kept there.
    pub fn kept(file: &Path) -> Result<Self, String> {
        let limit = u64::try_from(MOST_OUTPUT).unwrap_or(u64::MAX).saturating_mul(2);
        let kept = files::read_checked(file, limit).map_err(|error| error.to_string())?;
        serde_json::from_slice(&kept.bytes).map_err(|error| error.to_string())
    }

    /// Loads them into the namespace this thread is in, and the drill's own table. Returns what is missing there.
    pub fn load(self) -> Vec<String> {
        let mut missing = self.missing;
        for Load { what, loader, text } in &self.loads {
            if let Err(why) = loader.load(text.as_bytes()) {
                missing.push(format!("{what}: {why}"));
            }
        }
        if let Err(why) = Loader::Nft.load(OWN_TABLE.as_bytes()) {
            missing.push(format!("the drill's own table: {why}"));
        }
        missing
    }
}

/// Everything a change could touch in the copy, as the tools print it, with handles and counters; and both files to the byte.
pub fn snapshot(dir: &Path) -> String {
    let mut text = String::new();
    let mut add = |name: &str, content: &str| {
        text.push_str(name);
        text.push('\n');
        text.push_str(content);
        text.push('\n');
    };
    let rules = tool(NFT, &["-a", "list", "ruleset"], None).unwrap_or_else(String::into_bytes);
    add("nft -a list ruleset", &String::from_utf8_lossy(&rules));
    for (family, save) in [("ip", "/usr/sbin/iptables-legacy-save"), ("ip6", "/usr/sbin/ip6tables-legacy-save")] {
        if legacy(family) {
            let rules = tool(save, &["-c"], None).unwrap_or_else(String::into_bytes);
            // The comments hold the time.
            let rules = String::from_utf8_lossy(&rules);
            add(save, &rules.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n"));
        }
    }
    for name in ["hosts.allow", "hosts.deny"] {
        use std::os::unix::fs::MetadataExt;
        let file = dir.join(name);
        let modes = fs::metadata(&file).map_or_else(|e| e.to_string(), |of| format!("{:o} {} {}", of.mode(), of.uid(), of.gid()));
        let bytes = fs::read(&file).map_or_else(|e| e.to_string(), |bytes| bytes.escape_ascii().to_string());
        add(name, &format!("{modes}\n{}", bytes.replace("\\n", "\n")));
    }
    text
}

/// The first lines that differ.
pub fn difference(before: &str, after: &str) -> String {
    let gone = before.lines().find(|line| !after.lines().any(|other| other == *line));
    let new = after.lines().find(|line| !before.lines().any(|other| other == *line));
    match (gone, new) {
        (Some(gone), Some(new)) => format!("`{}` became `{}`", gone.trim(), new.trim()),
        (Some(gone), None) => format!("`{}` is gone", gone.trim()),
        (None, Some(new)) => format!("`{}` was left", new.trim()),
        (None, None) => "the order of lines changed".to_owned(),
    }
}
