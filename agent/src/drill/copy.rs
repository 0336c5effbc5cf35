//! The copies that a drill works on: the packet filters' rules, read by their own tools on the host and loaded by them into the drill's
//! network namespace. What cannot be loaded there is named. Reads the host, and writes only where it is called.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::sys::child;

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

/// What was read of the host.
#[derive(Default)]
pub struct Rules {
    /// What it is, the program that loads it, its arguments, and the text.
    loads: Vec<(String, &'static str, Vec<&'static str>, Vec<u8>)>,
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
    let mut part = |what: String, program, args, text: Result<Vec<u8>, String>| match text {
        Ok(text) => rules.loads.push((what, program, args, text)),
        Err(why) => rules.missing.push(format!("{what}: {why}")),
    };
    let tables = tool(NFT, &["list", "tables"], None).unwrap_or_default();
    let (mut ip, mut ip6) = (false, false);
    for line in String::from_utf8_lossy(&tables).lines() {
        let ["table", family, name] = line.split_whitespace().collect::<Vec<_>>()[..] else { continue };
        match family {
            "ip" if COMPAT.contains(&name) => ip = true,
            "ip6" if COMPAT.contains(&name) => ip6 = true,
            _ => {
                part(
                    format!("nftables {family} {name}"),
                    NFT,
                    vec!["-f", "-"],
                    tool(NFT, &["list", "table", family, name], None),
                );
            }
        }
    }
    for (wanted, save, load) in [
        (ip, "/usr/sbin/iptables-nft-save", "/usr/sbin/iptables-nft-restore"),
        (ip6, "/usr/sbin/ip6tables-nft-save", "/usr/sbin/ip6tables-nft-restore"),
        (legacy("ip"), "/usr/sbin/iptables-legacy-save", "/usr/sbin/iptables-legacy-restore"),
        (legacy("ip6"), "/usr/sbin/ip6tables-legacy-save", "/usr/sbin/ip6tables-legacy-restore"),
    ] {
        if wanted {
            part(format!("the rules of {save}"), load, Vec::new(), tool(save, &[], None));
        }
    }
    rules
}

/// Whether there are legacy tables; asking the tool would make them.
fn legacy(family: &str) -> bool {
    fs::read_to_string(format!("/proc/thread-self/net/{family}_tables_names")).is_ok_and(|names| !names.trim().is_empty())
}

impl Rules {
    /// Loads them into the namespace this thread is in, and the drill's own table. Returns what is missing there.
    pub fn load(self) -> Vec<String> {
        let mut missing = self.missing;
        for (what, program, args, text) in &self.loads {
            if let Err(why) = tool(program, args, Some(text)) {
                missing.push(format!("{what}: {why}"));
            }
        }
        if let Err(why) = tool(NFT, &["-f", "-"], Some(OWN_TABLE.as_bytes())) {
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
