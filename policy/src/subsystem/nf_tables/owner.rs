//! Who made a table, chain or set, told by the names that programs give them. What a manager owns is changed through it; this
//! file knows the command, and changes nothing.

use crate::address::Source;
use crate::verdict::cause::Cause;
use crate::verdict::owner::Owner;

/// Who made this, by the names on the way to it. `set` is that of the element that decided; `jumps` are the chains that rules of
/// the chain jump to, which show whose base chain it is.
pub fn of<'a>(table: &str, chain: &str, set: Option<&str>, jumps: impl Iterator<Item = &'a str>) -> Owner {
    if let Some(set) = set {
        for prefix in ["addr-set-", "addr6-set-", "f2b-"] {
            if let Some(jail) = set.strip_prefix(prefix) {
                return Owner::jail(jail);
            }
        }
        if set.starts_with("crowdsec") {
            return Owner::Crowdsec;
        }
    }
    match table {
        "f2b-table" | "fail2ban" => return Owner::Fail2ban(None),
        // The second is there in panic mode and while firewalld loads its rules.
        "firewalld" | "firewalld_policy_drop" => return Owner::Firewalld(None),
        "crowdsec" | "crowdsec6" => return Owner::Crowdsec,
        "sshguard" => return Owner::Sshguard,
        "libvirt_network" => return Owner::Libvirt,
        "docker-bridges" => return Owner::Docker,
        _ => {}
    }
    if let Some(jail) = chain.strip_prefix("f2b-").or(chain.strip_prefix("fail2ban-")) {
        return Owner::Fail2ban((jail != "chain").then(|| jail.to_owned()));
    }
    if chain.starts_with("ufw-") || chain.starts_with("ufw6-") {
        return Owner::Ufw(None);
    }
    if chain.starts_with("DOCKER") && chain != "DOCKER-USER" {
        return Owner::Docker;
    }
    if chain.starts_with("LIBVIRT") {
        return Owner::Libvirt;
    }
    if chain == "sshguard" {
        return Owner::Sshguard;
    }
    if chain.to_ascii_lowercase().starts_with("crowdsec") {
        return Owner::Crowdsec;
    }
    if matches!(chain, "INPUT" | "OUTPUT") {
        for jump in jumps {
            if jump.starts_with("ufw-") || jump.starts_with("ufw6-") {
                return Owner::Ufw(None);
            }
            if jump == "INPUT_ZONES" || jump == "INPUT_direct" || jump == "OUTPUT_direct" {
                return Owner::Firewalld(None);
            }
        }
    }
    // firewalld's iptables backend
    if ["IN_", "INPUT_ZONES", "INPUT_direct"].iter().any(|prefix| chain.starts_with(prefix)) {
        return Owner::Firewalld(None);
    }
    Owner::Nobody
}

impl Owner {
    /// Whether the rule is changed through a manager of its own, and never by us.
    pub fn is_manager(&self) -> bool {
        match self {
            Owner::Firewalld(_) | Owner::Ufw(_) | Owner::Docker | Owner::Crowdsec | Owner::Libvirt => true,
            Owner::Nobody
            | Owner::Fail2ban(_)
            | Owner::Sshguard
            | Owner::DenyHosts
            | Owner::Systemd
            | Owner::Sshd
            | Owner::Named(_) => false,
        }
    }

    /// The cause; `otherwise` is that of a rule nobody owns.
    pub fn cause(&self, otherwise: Cause) -> Cause {
        match self {
            Owner::Fail2ban(_) => Cause::Fail2banBanStale,
            Owner::Firewalld(_) => Cause::FirewalldDeny,
            Owner::Ufw(_) => Cause::UfwDeny,
            Owner::Crowdsec => Cause::CrowdsecDecision,
            Owner::Sshguard => Cause::SshguardBlock,
            Owner::Nobody
            | Owner::Docker
            | Owner::Libvirt
            | Owner::DenyHosts
            | Owner::Systemd
            | Owner::Sshd
            | Owner::Named(_) => otherwise,
        }
    }

    /// What a person must do, where a manager would undo or be confused by a change behind its back.
    pub fn by_hand(&self, source: Source, port: u16) -> Option<String> {
        let (who, family) = (source.short(), if source.is_ipv4() { "ipv4" } else { "ipv6" });
        match self {
            Owner::Nobody
            | Owner::Fail2ban(_)
            | Owner::Sshguard
            | Owner::DenyHosts
            | Owner::Systemd
            | Owner::Sshd
            | Owner::Named(_) => None,
            Owner::Firewalld(_) => {
                let rule = format!(
                    "rule family=\"{family}\" priority=\"-100\" source address=\"{who}\" port port=\"{port}\" protocol=\"tcp\" accept"
                );
                Some(format!("firewall-cmd --add-rich-rule='{rule}' && firewall-cmd --permanent --add-rich-rule='{rule}'"))
            }
            Owner::Ufw(_) => Some(format!("ufw prepend allow from {who} to any port {port} proto tcp")),
            Owner::Crowdsec => {
                let scope = if source.single().is_some() { "--ip" } else { "--range" };
                Some(format!("cscli decisions delete {scope} {who}"))
            }
            Owner::Docker => Some(format!(
                "the rule belongs to Docker, which writes it again; publish no port {port}, or allow {who} in the chain DOCKER-USER"
            )),
            Owner::Libvirt => {
                Some(format!("the rule belongs to libvirt, which writes it again; change the network, to let {who} in"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fail2ban_is_known_by_its_sets_and_chains() {
        let jail = Owner::Fail2ban(Some("sshd".to_owned()));
        let none = std::iter::empty;
        assert_eq!(of("f2b-table", "f2b-chain", Some("addr-set-sshd"), none()), jail);
        assert_eq!(of("f2b-table", "f2b-chain", Some("addr6-set-sshd"), none()), jail);
        assert_eq!(of("filter", "f2b-sshd", None, none()), jail);
        assert_eq!(of("f2b-table", "f2b-chain", None, none()), Owner::Fail2ban(None));
    }

    #[test]
    fn a_base_chain_is_that_of_the_manager_it_jumps_to() {
        assert_eq!(of("filter", "INPUT", None, ["ufw-before-input"].into_iter()), Owner::Ufw(None));
        assert_eq!(of("filter", "INPUT", None, ["f2b-sshd"].into_iter()), Owner::Nobody);
        assert_eq!(of("filter", "input", None, std::iter::empty()), Owner::Nobody);
    }

    #[test]
    fn what_a_manager_owns_is_changed_by_its_own_command() {
        let source: Source = "203.0.113.7".parse().unwrap_or_else(|e| panic!("{e}"));
        let ufw = Owner::Ufw(None).by_hand(source, 2222);
        assert_eq!(ufw.as_deref(), Some("ufw prepend allow from 203.0.113.7 to any port 2222 proto tcp"));
        assert_eq!(Owner::Fail2ban(None).by_hand(source, 22), None);
    }
}
