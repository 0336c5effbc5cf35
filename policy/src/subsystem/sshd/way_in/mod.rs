//! Whether sshd lets an access path in: where it listens, whether it serves at all, its lists, the account and the methods that can
//! work for the user. For the proof, which asks before and after each step on sshd; every value is sshd's own.

pub(crate) mod alike;
pub(crate) mod boot;
pub(crate) mod clients;
mod closed;
mod forwarding;
pub mod gone;
#[cfg(test)]
mod judged_tests;
pub(crate) mod parts;
pub(crate) mod risk;
pub(crate) mod serves;
mod sessions;
mod stale;
mod user_files;
pub mod values;
pub(crate) mod worse;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;

use crate::host::{self, HostState, Needs, Part};
use crate::subsystem::hosts_access::HostName;
use crate::subsystem::sshd::Effective;
use crate::subsystem::sshd::change::plan::difference;
use crate::subsystem::sshd::config::{Client, Document, Line, keyword, text_of};
use crate::subsystem::sshd::facts::ask;
use crate::subsystem::sshd::facts::journal::Entrance;
use crate::subsystem::sshd::facts::state::{Account, Login, Need, Server, is_interface_name};
use crate::subsystem::sshd::judge::methods::{Methods, ways};
use crate::subsystem::sshd::judge::objection::{self, Objection, Reason};
use crate::subsystem::sshd::judge::sockets;
use crate::subsystem::sshd::judge::{access, account, chroot};
use crate::subsystem::sshd::quoting::said;
use crate::subsystem::sshd::way_in::clients::Clients;
use crate::subsystem::sshd::way_in::parts::Parts;
use crate::subsystem::sshd::way_in::risk::{Risk, risks};
use crate::subsystem::sshd::way_in::sessions::Shell;
use crate::subsystem::sshd::way_in::user_files::NoUserFiles;
use crate::subsystem::sshd::way_in::worse::{gone, only_opens};
use crate::text::quoted::Text;
use crate::verdict::{AccessPath, PathOrigin, Stage, Verdict};

/// What sshd makes of one access path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WayIn {
    /// What keeps it out, or may, whoever comes.
    pub(crate) objections: Vec<Objection>,
    /// Limits beside the verdict.
    pub(crate) risks: Vec<Risk>,
    /// By what clients may know the host.
    pub(crate) identities: BTreeSet<String>,
    /// Which clients have algorithms in common with it.
    pub(crate) clients: Clients,
    /// Whether it is a keep entry: each of its keys stays, whoever is in by it now.
    pub(crate) kept: bool,
    /// What counts for everybody, where that is known.
    everybody: Effective,
    /// Each login that was asked about.
    pub(crate) logins: Vec<LoginWay>,
    /// For which others each of them stands.
    parts: Parts,
    /// What the files on disk say keeps it out, and does not: sshd has not read them. With why that is known.
    pub(crate) disproved: Vec<(Objection, Disproof)>,
}

/// By what the files on disk are known, or thought, not to be those that run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disproof {
    /// Somebody is in this way who came in since sshd read its files.
    IsIn,
    /// Somebody came in this way since then, as the journal has it.
    CameIn,
    /// They may have changed since sshd read them.
    Changed,
}

impl Disproof {
    /// What is to be done about it, for people.
    pub(crate) fn advice(self, user: &str) -> String {
        let (who, are) = match self {
            Disproof::IsIn => (format!("{user}, who is in"), "sshd has not read them"),
            Disproof::CameIn => (format!("{user}, who came in since sshd read its files"), "sshd has not read these"),
            Disproof::Changed => (user.to_owned(), "sshd may not have read them since they changed"),
        };
        format!(
            "the files on disk refuse {who}: {are}; see `sshfix ctl sshd check`, and mend them first, or reload sshd by hand where they \
             are meant so"
        )
    }
}

/// One login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginWay {
    pub(crate) user: String,
    address: IpAddr,
    local: Option<IpAddr>,
    /// By which interface, where that is known and the addresses are link-local.
    interface: Option<String>,
    pub(crate) effective: Effective,
    /// What keeps it out, or may, before it comes to methods.
    pub(crate) objections: Vec<Objection>,
    /// What it can log in with.
    pub(crate) ways: Methods,
    /// How those who are in so came in, as the journal of sshd has it.
    pub(crate) entered: Vec<Entrance>,
    /// Whether that is not known of some of them.
    others: bool,
    /// When the running sshd read these files, where that is known: who came in before that came in by other ones.
    read_at: Option<Timestamp>,
    /// Whether the running sshd may have read other files than these.
    pub(crate) may_differ: bool,
    /// Why it is good for forwarding alone, where it is.
    forwards_alone: Option<Text>,
    /// Its login shell.
    shell: Shell,
    /// The programs of subsystems that it could not run, with why.
    programs: BTreeMap<String, String>,
    /// Of what the user may leave for such logins, what is not there.
    no_files: NoUserFiles,
    /// The same by what that sshd may have read: the methods that these files take away may work. None where they take none away.
    pub(crate) opened: Option<Box<LoginWay>>,
}

/// A stage that says that a way is closed, or does not know, by which somebody is in: a fault of ours, or a change since then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Whose way.
    pub path: AccessPath,
    /// Which stage.
    pub stage: Stage,
    /// What it says.
    pub why: String,
}

/// More clients than this are not asked about for one range.
const MAX_LOGINS: usize = 24;
/// More addresses of the host than this are not asked about for one client.
const MAX_LOCALS: usize = 8;

/// Values about connections, which are judged whoever comes.
const OF_CONNECTIONS: [&str; 14] = [
    "port",
    "listenaddress",
    "addressfamily",
    "hostkey",
    "hostkeyalgorithms",
    "hostcertificate",
    "hostkeyagent",
    "ciphers",
    "macs",
    "kexalgorithms",
    "maxstartups",
    "persourcemaxstartups",
    "logingracetime",
    "usedns",
];

/// The port by which the sshd is known that a path is to be judged by when the sshd on `port` gets these files: another one that has one of
/// them too reads it at its next start.
pub fn server_for(host: &HostState, port: u16, files: &BTreeSet<&str>, path: &AccessPath, needs: &mut Needs) -> u16 {
    // Which files it comes by is not seen; those of the sshd that is changed, perhaps.
    if path.has_no_address() {
        return port;
    }
    let Some(Part::Present(edited)) = host.sshd.servers.get(&port) else { return port };
    if path.port == port || sockets::is_on(host, (port, edited), path.port) || files.is_empty() {
        return port;
    }
    match host.sshd.servers.get(&path.port) {
        None => {
            needs.insert(host::Need::Sshd(Need::Server(path.port)));
            port
        }
        Some(Part::Present(Server { tree: Ok(tree), .. })) if files.iter().any(|file| tree.files.contains_key(*file)) => {
            path.port
        }
        Some(Part::Present(_) | Part::Absent(_) | Part::Unreadable(_)) => port,
    }
}

/// Judges a path by the sshd on `port`, which steps were predicted on; `read` is the host as it was read. A path to another server
/// is none of its business.
pub fn way_in(read: &HostState, now: &HostState, port: u16, path: &AccessPath, needs: &mut Needs) -> WayIn {
    let (Some(before), Some(server)) = (ask::resolved(read, port, needs), ask::resolved(now, port, needs)) else {
        let why = match now.sshd.servers.get(&port) {
            Some(Part::Absent(why) | Part::Unreadable(why)) => said(why),
            _ => "sshd, which was not asked yet".into(),
        };
        return WayIn::only(Objection::unknown(Stage::SshdAdmission, Reason::NotRead(why.as_str().to_owned()), why));
    };
    if path.port != port && !path.has_no_address() && !sockets::is_on(read, (port, &before), path.port) {
        return WayIn::default();
    }
    let sessions = Sessions::of(read, path);
    let mut way = WayIn { identities: serves::identities(&server), ..WayIn::default() };
    // Nobody comes in while it does not run; its files decide about whoever is in when it is started.
    let down = !server.running && !path.has_no_address();
    if down {
        way.objections.push(Objection::refuse(Stage::Listener, Reason::Down, "nobody: sshd does not run"));
    }
    way.objections.extend(serves::objections(&server));
    way.clients = Clients::of(&server);
    way.kept = path.origin == PathOrigin::Keep;
    if !path.has_no_address() && !down {
        let from = path.source.first();
        way.objections.extend(sockets::lost_sockets(read, (port, &before), &server, path.port, from, &sessions.locals));
    }
    // Without an effective configuration nothing is known of a login.
    let Ok(effective) = &server.effective else { return way };
    let client = Some(path.source).filter(|_| !path.has_no_address());
    let risks_of = |effective: &Effective| {
        let mut all = risks(effective);
        for risk in &mut all {
            risk.for_client(effective, client);
        }
        all
    };
    way.risks = risks_of(effective);
    way.risks.extend(risk::short_host_keys(effective, &server.host_key_files));
    way.everybody = effective.clone();
    let reached = sockets::reached(read, path.source.first(), &sessions.locals);
    for absent in boot::newly_absent(&before, &server, path.port, &reached).into_iter().filter(|_| !down) {
        way.objections.extend(absent.objection());
        way.risks.extend(absent.risk());
    }
    let edited: BTreeSet<String> =
        server.edited.values().flat_map(|(was, is)| edited_lines(was, is)).map(|line| line.0).collect();
    let edited = edited.into_iter().chain(stale::keywords(&server)).collect();
    way.objections.extend(before.effective.as_ref().ok().and_then(|was| values::not_printed(&edited, was, effective)));
    let users = sessions.users(path);
    if users.is_empty() {
        way.objections.extend(values::objections(now, effective, needs));
        way.objections.extend(nobody_named(&before, &server, now, needs));
        way.objections.extend(stale::nobody_named(&server, now, needs));
        return way;
    }
    let parts = Parts::of(&before, &users).and(Parts::of(&server, &users)).with_keys(now, &users);
    let Some(ways) = parted(&parts, read, path, &sessions).filter(|ways| ways.len() * users.len() <= MAX_LOGINS) else {
        let why = || Text::from("sshd: the configuration parts this range, or this host's addresses, into too many");
        way.objections.push(Objection::unknown(Stage::SshdAccess, Reason::TooManyParts, why()));
        way.objections.extend(deciding(&before, &server, now, needs).map(|keyword| unnamed(why(), keyword)));
        return way;
    };
    way.parts = parts;
    for (user, (address, locals)) in users.iter().flat_map(|user| ways.iter().map(move |way| (user, way))) {
        for (address, local) in locals.iter().map(|local| (*address, *local)) {
            let mut login = login(now, &server, (user, address, local), sessions.interface.as_deref(), (port, path.port), needs);
            (login.entered, login.others) = sessions.entered(read, user, (address, local), &way.parts, needs);
            // An sshd that is started for each connection reads these.
            login.may_differ = may_differ(&server) && !path.has_no_address() && !down;
            login.read_at = server.read_at.filter(|_| !login.may_differ);
            login.objections.extend(not_judged(&login, (&before, &server), now, needs));
            login.opened = opened(&login, now, &server, path.port, needs);
            way.risks.extend(risks_of(&login.effective));
            way.logins.push(login);
        }
    }
    if way.risks.iter().any(Risk::is_of_names) && names_answered(read, path, needs) {
        way.risks.iter_mut().for_each(Risk::names_answer);
    }
    way
}

/// Whether the name servers answer for this very client, whatever they say.
fn names_answered(host: &HostState, path: &AccessPath, needs: &mut Needs) -> bool {
    if path.has_no_address() {
        return true;
    }
    let (Some(address), Part::Present(files)) = (path.source.single(), &host.hosts_access) else { return false };
    match files.facts.names.get(&address) {
        Some(HostName::Verified(_) | HostName::Unknown | HostName::Paranoid) => true,
        Some(HostName::Unanswered(_)) => false,
        None => {
            needs.insert(host::Need::HostName(address));
            false
        }
    }
}

/// The same before any step. Where sshd may not have read its files since they changed, what they say is not what keeps these people
/// out, or lets them in. Nor is it where they refuse for certain who came in since sshd read its files: whatever the times say, it has read
/// other ones.
pub fn way_in_now(read: &HostState, port: u16, path: &AccessPath, needs: &mut Needs) -> WayIn {
    let mut way = way_in(read, read, port, path, needs);
    let Some(Part::Present(server)) = read.sshd.servers.get(&port) else { return way };
    // An sshd that is started for each connection, or is started yet, reads the files anew: they are what counts.
    if path.has_no_address() || way.is_down() {
        return way;
    }
    if !way.identities.is_empty() {
        way.identities = serves::identities_now(server);
    }
    // What the running sshd was told is not known.
    if may_differ(server) {
        way.objections.retain(|objection| !objection.is_of_value());
        way.logins.iter_mut().for_each(|login| login.objections.retain(|objection| !objection.is_of_value()));
    }
    if !server.stale.is_empty() {
        way.clients = way.clients.or_by_default(&server.host_keys);
    }
    // Where it listens is seen, and not what files say.
    let of_sockets = |objection: &Objection| matches!(objection.reason, Reason::Socket(_));
    let (sockets, others) = std::mem::take(&mut way.objections).into_iter().partition::<Vec<_>, _>(of_sockets);
    way.objections = others;
    way.disproved = sockets.into_iter().map(|objection| (objection, Disproof::Changed)).collect();
    disprove(&mut way, read, server, path, needs);
    if !server.stale.is_empty() {
        stale::forget(&mut way, read);
    }
    // That they are in is all that is known, and it is enough.
    if !server.stale.is_empty() && path.origin == PathOrigin::Session {
        way.objections.clear();
        way.logins.iter_mut().for_each(|login| login.objections.clear());
    }
    way
}

/// Takes out what the files on disk say against somebody for certain where that is disproved. Where other files may run, nothing of it counts
/// for anybody of the path; where the same are thought to run, it is disproved for those alone who came the same way.
fn disprove(way: &mut WayIn, host: &HostState, server: &Server, path: &AccessPath, needs: &mut Needs) {
    let everybodys = |disproof| (Some(disproof), vec![Some(disproof); way.logins.len()]);
    let (of_all, of_logins) = if !may_differ(server) {
        let came = came_in(host, server, path, way, needs);
        let of = |login: &LoginWay, came: bool| match (login.is_proven(), came) {
            (true, _) => Some(Disproof::IsIn),
            (false, true) => Some(Disproof::CameIn),
            (false, false) => None,
        };
        let of_logins: Vec<Option<Disproof>> = way.logins.iter().zip(came).map(|(login, came)| of(login, came)).collect();
        // Whoever came in shows what is wrong about everybody.
        (of_logins.iter().flatten().next().copied(), of_logins)
    } else if way.is_proven() {
        everybodys(Disproof::IsIn)
    } else if !server.stale.is_empty() || way.kept || path.origin == PathOrigin::Session {
        everybodys(Disproof::Changed)
    } else {
        return;
    };
    let said_by_files = |objection: &Objection| {
        let of_files = if may_differ(server) { objection.reason != Reason::Down } else { objection.reason.is_of_files() };
        objection.is_certain() && of_files
    };
    let mut disproved = Vec::new();
    if let Some(disproof) = of_all {
        let (said, others): (Vec<_>, _) = std::mem::take(&mut way.objections).into_iter().partition(said_by_files);
        way.objections = others;
        disproved.extend(said.into_iter().map(|objection| (objection, disproof)));
    }
    for (login, disproof) in way.logins.iter_mut().zip(of_logins) {
        let Some(disproof) = disproof else { continue };
        let (said, others): (Vec<_>, _) = std::mem::take(&mut login.objections).into_iter().partition(said_by_files);
        login.objections = others;
        disproved.extend(said.into_iter().map(|objection| (objection, disproof)));
    }
    way.disproved.extend(disproved);
}

/// Of each login whether sshd's journal has somebody who came in so since sshd read its files, though they refuse him: a keep entry's, from an
/// address that they do not tell apart from that one, and to whichever address of the host. Asked only where they refuse somebody.
fn came_in(host: &HostState, server: &Server, path: &AccessPath, way: &WayIn, needs: &mut Needs) -> Vec<bool> {
    let nobody = vec![false; way.logins.len()];
    let refused = |login: &LoginWay| login.objections.iter().any(|one| one.is_certain() && one.reason.is_of_files());
    let all = way.objections.iter().any(|one| one.is_certain() && one.reason.is_of_files());
    let Some(read_at) = server.read_at.filter(|_| way.kept && (all || way.logins.iter().any(refused))) else { return nobody };
    let Some(journal) = &host.sshd.journal else {
        needs.insert(host::Need::Sshd(Need::Journal));
        return nobody;
    };
    let accepted = |login: &LoginWay| {
        let there = |from: IpAddr| path.source.contains(from.into()) && way.parts.alike_clients(from, login.address);
        journal.lines.iter().any(|line| line.came_in() == Some(&login.user) && line.at >= read_at && line.from.is_some_and(there))
    };
    let same = |one: &LoginWay, other: &LoginWay| (&one.user, one.address) == (&other.user, other.address);
    // The journal does not say to which address of the host.
    let wherever = |login: &LoginWay| all || way.logins.iter().filter(|other| same(other, login)).all(refused);
    way.logins.iter().map(|login| wherever(login) && accepted(login)).collect()
}

/// Whether sshd's journal has how somebody who is in by this path logged in.
pub fn is_in(host: &HostState, path: &AccessPath, needs: &mut Needs) -> bool {
    let sessions = Sessions::of(host, path);
    let mut of_user = |user: &String| {
        path.source
            .single()
            .is_some_and(|from| !sessions.entered(host, user, (from, None), &Parts::default(), needs).0.is_empty())
    };
    sessions.users(path).iter().any(&mut of_user)
}

/// Whether what runs may be another configuration than the files say: they changed since, or it leaves no mark of when it read them.
fn may_differ(server: &Server) -> bool {
    let marked = server.effective.as_ref().is_ok_and(|it| it.one("pidfile").is_some_and(|file| file != "none"));
    !server.stale.is_empty() || !marked
}

/// Values that take methods, or the shell, away from somebody, and those that do not.
const TAKEN_AWAY: [(&str, &str); 6] = [
    ("authenticationmethods", "any"),
    ("authorizedkeysfile", ".ssh/authorized_keys .ssh/authorized_keys2"),
    ("chrootdirectory", "none"),
    ("forcecommand", "none"),
    ("maxsessions", "10"),
    ("pubkeyauthentication", "yes"),
];

/// The login by what the running sshd may have read in the place of its files. Only lines of files that changed, or may have, are taken for new.
fn opened(login: &LoginWay, host: &HostState, server: &Server, port: u16, needs: &mut Needs) -> Option<Box<LoginWay>> {
    let account = host.sshd.accounts.get(&login.user).and_then(Part::present)?;
    if !login.may_differ || !server.edited.is_empty() || login.effective == Effective::default() {
        return None;
    }
    let of_shells = |keyword: &str| matches!(keyword, "chrootdirectory" | "forcecommand");
    let taken = |(keyword, plain): &(&'static str, &'static str)| {
        let value = login.effective.one(keyword)?;
        let is_plain = match *keyword {
            // Keys may lie anywhere; only that they lie nowhere takes the method away.
            "authorizedkeysfile" => value != "none",
            "maxsessions" => value != "0",
            _ => value == *plain,
        };
        // Without a mark of when it read them nothing is known to have changed: what always was so would stand against every edit.
        let new = if server.stale.is_empty() { !of_shells(keyword) } else { server.may_be_new(keyword) };
        (!is_plain && new).then_some((*keyword, *plain))
    };
    let taken = TAKEN_AWAY.iter().filter_map(taken).map(|(keyword, plain)| (keyword.to_owned(), plain.to_owned()));
    let taken: Vec<(String, String)> = taken.chain(stale::taken(login, host, server, account)).collect();
    if taken.is_empty() {
        return None;
    }
    let with = |effective: Effective, (keyword, value): (String, String)| effective.with(&keyword, &value);
    let effective = taken.into_iter().fold(login.effective.clone(), with);
    let client = client(&login.user, (login.address, login.local, port), login.interface.as_deref(), account);
    let ways = ways(host, &effective, &client, account, needs);
    let forwards_alone = forwarding::alone(&effective, account);
    Some(Box::new(LoginWay { effective, ways, forwards_alone, ..login.clone() }))
}

impl WayIn {
    fn only(objection: Objection) -> Self {
        Self { objections: vec![objection], ..Self::default() }
    }

    /// Whether it lets it in, and what decided.
    pub fn verdict(&self) -> (Verdict, Text) {
        let of_logins = self.logins.iter().flat_map(LoginWay::all);
        let all = self.objections.iter().cloned().chain(of_logins);
        // Values that nobody knows matter where they come, not where they always were.
        let all: Vec<Objection> = all.filter(|objection| !objection.is_of_value()).collect();
        objection::verdict(all.iter())
    }

    /// Whether sshd does not run.
    pub(crate) fn is_down(&self) -> bool {
        self.objections.iter().any(|objection| objection.reason == Reason::Down)
    }

    /// Whether somebody is in this way whose login sshd's journal has.
    pub fn is_proven(&self) -> bool {
        self.logins.iter().any(LoginWay::is_proven)
    }

    /// Why sshd refuses for certain by now what it did not refuse for certain so.
    pub fn newly_closed(&self, now: &WayIn) -> Option<Text> {
        let certain =
            |all: &[Objection]| all.iter().find(|objection| objection.is_certain()).map(|objection| objection.why.clone());
        if let (None, Some(why)) = (certain(&self.objections), certain(&now.objections)) {
            return Some(why);
        }
        let was_not = |is: &&LoginWay| self.login(is).is_some_and(|was| !was.is_closed());
        let closed = now.logins.iter().filter(|is| is.is_closed()).find(was_not)?;
        Some(certain(&closed.objections).unwrap_or_else(|| closed.no_way().into()))
    }

    /// What can work, where it is let in: `publickey`.
    pub fn methods(&self) -> Vec<String> {
        let mut methods: Vec<String> = Vec::new();
        for method in self.logins.iter().flat_map(|login| login.ways.best().1) {
            if !methods.contains(&method) {
                methods.push(method);
            }
        }
        methods
    }

    /// What makes a path that was so worse off so.
    pub fn worse(&self, now: &WayIn) -> Option<(Verdict, Text)> {
        worse::worse(self, now)
    }

    /// The stages that say otherwise than a live session.
    pub fn faults(&self, path: &AccessPath) -> Vec<Fault> {
        let of = |(stage, why)| Fault { path: path.clone(), stage, why };
        worse::faults(self).into_iter().map(of).collect()
    }

    /// The verdicts to show before and after a change that is no worse: what a live session disproves does not count.
    pub fn shown(&self, now: &WayIn) -> (Verdict, Verdict) {
        if self.is_proven() { (Verdict::Accept, Verdict::Accept) } else { (self.verdict().0, now.verdict().0) }
    }

    /// The same login; where the new files part addresses that the old ones did not, the one by which the old ones said the same.
    pub(crate) fn login(&self, is: &LoginWay) -> Option<&LoginWay> {
        let of_user = || self.logins.iter().filter(|was| was.user == is.user);
        let same = |was: &&LoginWay| (was.address, was.local) == (is.address, is.local);
        let alike = |was: &&LoginWay| self.parts.alike((was.address, was.local), (is.address, is.local));
        of_user().find(same).or_else(|| of_user().find(alike))
    }

    /// What becomes different for this path: `publickey stays`, then each value.
    pub fn changes(&self, now: &WayIn) -> Vec<Text> {
        let (before, after) = (self.methods(), now.methods());
        let stays = |method: &&String| after.contains(method);
        let listed = |what: &str, methods: Vec<&String>| {
            (!methods.is_empty())
                .then(|| format!("{} {what}", methods.iter().map(|method| method.as_str()).collect::<Vec<_>>().join(", ")))
        };
        let (kept, lost): (Vec<&String>, Vec<&String>) = before.iter().partition(stays);
        let new = after.iter().filter(|method| !before.contains(method)).collect();
        let words: Vec<String> =
            [listed("stays", kept), listed("goes", lost), listed("comes", new)].into_iter().flatten().collect();
        let mut lines: Vec<Text> = if words.is_empty() { Vec::new() } else { vec![words.join(", ").into()] };
        lines.extend(worse::closed_already(self, now));
        for (was, is) in now.logins.iter().filter_map(|is| Some((self.login(is)?, is))) {
            let lost = gone(was, is);
            let count = was.ways.keys.len();
            let keys = (!lost.is_empty()).then(|| format!("{} of {count} keys goes: {}", lost.len(), lost.join(", ")).into());
            for line in keys.into_iter().chain(difference(&was.effective, &is.effective)) {
                if !lines.contains(&line) {
                    lines.push(line);
                }
            }
        }
        lines
    }

    /// The limits that get worse.
    pub fn new_risks(&self, now: &WayIn) -> Vec<Text> {
        let mut lines: Vec<Text> = risk::worse(&self.risks, &now.risks).map(|risk| Text::from(&risk.text)).collect();
        let lost = self.identities.difference(&now.identities).filter(|_| !now.identities.is_empty());
        lines.extend(lost.map(|identity| {
            Text::from(format!(
                "clients that know this host only by {identity} will see REMOTE HOST IDENTIFICATION HAS CHANGED, or ask again"
            ))
        }));
        lines.extend(self.clients.gone(&now.clients).into_iter().map(Text::from));
        let of_logins = now.logins.iter().filter_map(|is| Some((&self.login(is)?.effective, &is.effective)));
        for (was, is) in std::iter::once((&self.everybody, &now.everybody)).chain(of_logins) {
            lines.extend(forwarding::ends(was, is));
        }
        let mut seen: Vec<Text> = Vec::new();
        lines.retain(|line| {
            !seen.contains(line) && {
                seen.push(line.clone());
                true
            }
        });
        lines
    }
}

impl LoginWay {
    /// A login of which nothing was known before.
    pub(crate) fn unknown(is: &LoginWay) -> Self {
        let entered = is.entered.clone();
        Self { objections: Vec::new(), ways: Methods::default(), entered, may_differ: true, ..is.clone() }
    }

    /// Whether somebody is in so who came by what sshd goes by now, and the journal has how each of those who are in so came in.
    pub(crate) fn is_proven(&self) -> bool {
        self.knows_entrances() && self.entered.iter().any(|entrance| self.is_of_now(entrance))
    }

    /// Whether the journal has how each of those who are in so came in.
    pub(crate) fn knows_entrances(&self) -> bool {
        !self.entered.is_empty() && !self.others
    }

    /// Whether sshd has read no other files since: who came in before that proves nothing of these.
    pub(crate) fn is_of_now(&self, entrance: &Entrance) -> bool {
        self.read_at.is_none_or(|read| entrance.at >= read)
    }

    /// Whether somebody is in so, whether or not it is known how.
    pub(crate) fn is_in(&self) -> bool {
        !self.entered.is_empty() || self.others
    }

    /// Whether nobody comes in so, for certain.
    pub(crate) fn is_closed(&self) -> bool {
        self.objections.iter().any(Objection::is_certain) || self.ways.best().0 == Verdict::Refuse && self.knows_its_ways()
    }

    /// Whether its methods were looked at.
    pub(crate) fn knows_its_ways(&self) -> bool {
        !self.objections.iter().any(Objection::is_unread)
    }

    /// Why no method is left.
    pub(crate) fn no_way(&self) -> String {
        let user = &self.user;
        if self.ways.ways.is_empty() {
            format!("sshd: no authentication method is left for {user}")
        } else if self.ways.no_key_files && self.ways.ways.iter().all(crate::subsystem::sshd::judge::methods::Way::by_key) {
            format!("sshd: {user} has no authorized keys, and no authentication method is left that can work")
        } else {
            format!("sshd: no authentication method is left that can work for {user}")
        }
    }

    /// Its objections, and one of its methods where none is known to work.
    fn all(&self) -> Vec<Objection> {
        let mut all = self.objections.clone();
        let (verdict, methods) = self.ways.best();
        let why = match verdict {
            Verdict::Accept => return all,
            Verdict::Refuse if !self.knows_its_ways() => return all,
            Verdict::Refuse => self.no_way(),
            Verdict::Unknown => format!("sshd: whether {} works for {} is not known", methods.join(" or "), self.user),
        };
        all.push(Objection { verdict, ..Objection::unknown(Stage::Account, Reason::Account(why.clone()), why) });
        all
    }
}

/// The live sessions that a path stands for.
struct Sessions {
    /// The addresses of the host that they came to.
    locals: Vec<IpAddr>,
    /// The clients' ends, to which address of the host, and as whom.
    peers: Vec<(SocketAddr, IpAddr, String)>,
    /// By which interface all of them came: a keep entry may come by another one.
    interface: Option<String>,
}

impl Sessions {
    fn of(host: &HostState, path: &AccessPath) -> Self {
        let there = host.listener.present().into_iter().flat_map(|state| &state.sessions);
        let of_path = there.filter(|session| {
            path.source.single() == Some(crate::address::canonical(session.peer.ip())) && session.port == path.port
        });
        let of_path: Vec<_> = of_path.collect();
        // Whoever is in by one address of the host: a keep entry comes to any of them.
        let to = of_path.iter().filter(|_| path.origin != PathOrigin::Keep);
        let locals: BTreeSet<IpAddr> = to.map(|session| session.local).collect();
        let interfaces: BTreeSet<Option<&String>> = of_path.iter().map(|session| session.interface.as_ref()).collect();
        let one = interfaces.first().copied().flatten().filter(|_| interfaces.len() == 1 && path.origin != PathOrigin::Keep);
        let interface = one.filter(|name| is_interface_name(name)).cloned();
        let peers = of_path.iter().filter_map(|session| Some((session.peer, session.local, session.user.clone()?)));
        Self { locals: locals.into_iter().collect(), peers: peers.collect(), interface }
    }

    /// The addresses of the host that this client comes to: those of live sessions, else one of each part of those of the same family. `None`
    /// is any; nothing at all where these are too many.
    fn locals_for(&self, parts: &Parts, host: &HostState, address: IpAddr) -> Option<Vec<Option<IpAddr>>> {
        let same = |ip: &&IpAddr| ip.is_ipv4() == address.is_ipv4() && ip.is_loopback() == address.is_loopback();
        if address.is_unspecified() {
            return Some(vec![None]);
        }
        if !self.locals.is_empty() {
            return Some(self.locals.iter().copied().map(Some).collect());
        }
        let own = host.listener.present().into_iter().flat_map(|state| &state.addresses).filter(same);
        let own: Vec<Option<IpAddr>> = parts.locals(own).into_iter().map(Some).collect();
        match own.len() {
            0 => Some(vec![None]),
            1..=MAX_LOCALS => Some(own),
            _ => None,
        }
    }

    /// How those of them who came so logged in, as far as it is known; and whether it is not known of some. To another address of the host the
    /// same way leads where nothing tells the two apart.
    fn entered(
        &self,
        host: &HostState,
        user: &str,
        (from, to): (IpAddr, Option<IpAddr>),
        parts: &Parts,
        needs: &mut Needs,
    ) -> (Vec<Entrance>, bool) {
        let there = |local: IpAddr| to.is_none_or(|to| to == local || parts.alike((from, Some(to)), (from, Some(local))));
        let came = self.peers.iter().filter(|(peer, local, who)| peer.ip() == from && who == user && there(*local));
        let peers: Vec<SocketAddr> = came.map(|(peer, ..)| *peer).collect();
        let Some(known) = &host.sshd.entrances else {
            if !peers.is_empty() {
                needs.insert(host::Need::Sshd(Need::Entrances));
            }
            return (Vec::new(), !peers.is_empty());
        };
        let entered = peers.iter().filter_map(|peer| known.get(peer).filter(|entrance| entrance.user == user).cloned());
        let entered: Vec<Entrance> = entered.collect();
        let others = entered.len() < peers.len();
        (entered, others)
    }

    /// As whom somebody comes this way: whoever became another user after the login still comes in as who logged in.
    fn users(&self, path: &AccessPath) -> BTreeSet<String> {
        let came: BTreeSet<String> = self.peers.iter().map(|(_, _, user)| user.clone()).collect();
        match (&path.user, path.origin) {
            (Some(user), PathOrigin::Requester) if !came.is_empty() && !came.contains(user) => came,
            (Some(user), _) => [user.clone()].into(),
            (None, _) => came,
        }
    }
}

/// A login that was not judged: who could not be looked up, or which `Match` lines count for the client is not known. An edit of what decides
/// could be the end of this way, whatever else stays as it was.
fn not_judged(login: &LoginWay, (before, now): (&Server, &Server), host: &HostState, needs: &mut Needs) -> Option<Objection> {
    let unread = |one: &&Objection| matches!(one.reason, Reason::NotRead(_) | Reason::LocalAddress(_) | Reason::NotPrinted(_));
    let of_login = login.objections.iter().find(unread).map(|objection| objection.why.clone());
    let names = || Text::from("sshd: UseDNS is on and Match lines go by host names, which are not looked up here");
    let by_names = access::matches_names(before) || access::matches_names(now);
    let why = of_login.or_else(|| by_names.then(names))?;
    let keyword = looks_up(before, now).filter(|_| by_names).or_else(|| deciding(before, now, host, needs))?;
    Some(unnamed(why + format!(" ({})", login.user), keyword))
}

/// `UseDNS`, where it changes.
fn looks_up(before: &Server, now: &Server) -> Option<String> {
    let value = |server: &Server| server.effective.as_ref().ok().and_then(|it| it.one("usedns").map(str::to_owned));
    (value(before) != value(now)).then(|| "usedns".to_owned())
}

/// What decides about somebody changes, and about whom it decides is not known.
fn unnamed(why: Text, keyword: String) -> Objection {
    let name = keyword::spelling(&keyword);
    let why = why + format!("; whether {name} keeps somebody out then is not known");
    Objection::unknown(Stage::SshdAccess, Reason::Unnamed(keyword), why)
}

/// A path whose user is not known: whatever selects by user could keep just that user out, unless it only lets more in.
fn nobody_named(before: &Server, now: &Server, host: &HostState, needs: &mut Needs) -> Option<Objection> {
    let keyword = deciding(before, now, host, needs)?;
    let why =
        format!("sshd: which user comes this way is not known, and {keyword} changes; name the user in [[keep]] of agent.toml");
    Some(Objection::unknown(Stage::SshdAccess, Reason::Unnamed(keyword), why))
}

/// A keyword that is edited and may decide about a login; whatever is not harmless, where what counts is not known before or after.
fn deciding(before: &Server, now: &Server, host: &HostState, needs: &mut Needs) -> Option<String> {
    let known = before.effective.as_ref().ok().zip(now.effective.as_ref().ok());
    let edited: BTreeSet<_> = now.edited.values().flat_map(|(was, is)| edited_lines(was, is)).collect();
    let mut decides = |keyword: &str, arguments: &[String]| {
        !OF_CONNECTIONS.contains(&keyword)
            && !known.is_some_and(|(was, is)| only_opens(keyword, was, is))
            && !values::is_harmless(host, keyword, arguments, needs)
    };
    edited.iter().find(|(keyword, arguments)| decides(keyword, arguments)).map(|(keyword, _)| keyword.clone())
}

/// Limits that a Match block may set: they keep people out only where they are 0.
const LIMITS: [&str; 2] = ["maxauthtries", "maxsessions"];

/// The keywords of the lines that come and go, with their arguments; `match` for what no keyword can be told of.
fn edited_lines(before: &[u8], after: &[u8]) -> BTreeSet<(String, Vec<String>)> {
    let lines = |bytes: &[u8]| -> Vec<Line> { Document::parse(bytes).lines().map(|(_, line)| line.clone()).collect() };
    let (before, after) = (lines(before), lines(after));
    let gone = before.iter().filter(|line| !after.contains(line));
    let come = after.iter().filter(|line| !before.contains(line));
    let unknown = || ("match".to_owned(), Vec::new());
    let keyword = |line: &Line| match line.directive() {
        Ok(None) => None,
        Ok(Some(directive)) => {
            let name = keyword::canonical(&directive.keyword);
            let leaves_room = LIMITS.contains(&name.as_str()) && directive.arguments.first().is_some_and(|value| value != "0");
            (!leaves_room).then_some((name, directive.arguments.clone()))
        }
        Err(_) => Some(unknown()),
    };
    let lines_differ = gone.clone().chain(come.clone()).count();
    let found: BTreeSet<_> = gone.chain(come).filter_map(keyword).collect();
    // Lines that only changed places: what they mean may have, too.
    if lines_differ == 0 && before != after { [unknown()].into() } else { found }
}

/// One address of each part of a path's clients, with the addresses of the host that it comes to; `None` where these are too many, or not
/// known.
fn parted(parts: &Parts, host: &HostState, path: &AccessPath, sessions: &Sessions) -> Option<Vec<(IpAddr, Vec<Option<IpAddr>>)>> {
    let with_locals = |address| Some((address, sessions.locals_for(parts, host, address)?));
    parts.clients(path.source)?.into_iter().map(with_locals).collect()
}

/// One login of `(user, client's address, host's address)` by the sshd of the first port, to the second.
fn login(
    host: &HostState,
    server: &Server,
    (user, address, local): (&str, IpAddr, Option<IpAddr>),
    interface: Option<&str>,
    (server_port, port): (u16, u16),
    needs: &mut Needs,
) -> LoginWay {
    let empty = LoginWay {
        user: user.to_owned(),
        address,
        local,
        interface: interface.map(str::to_owned),
        effective: Effective::default(),
        objections: Vec::new(),
        ways: Methods::default(),
        entered: Vec::new(),
        others: false,
        read_at: None,
        may_differ: false,
        forwards_alone: None,
        shell: Shell::Plain,
        programs: BTreeMap::new(),
        no_files: NoUserFiles::default(),
        opened: None,
    };
    let because = |reason: Reason, why: Text| {
        let objections = vec![Objection::unknown(Stage::SshdAccess, reason, why)];
        LoginWay { objections, ..empty.clone() }
    };
    let not_read = |why: String| because(Reason::NotRead(why.clone()), why.into());
    let asked = if interface.is_some() { address } else { alike::representative(host, server, address) };
    let Some(login) = Login::new(user, asked, local.unwrap_or(asked), port) else {
        return not_read("sshd: that is no name sshfix asks about".to_owned());
    };
    let login = login.of_server(server_port).over(interface);
    let account = host.sshd.accounts.get(user);
    if account.is_none() {
        needs.insert(host::Need::Sshd(Need::Account(user.to_owned())));
    }
    let effective = ask::login_as(host, server, &login, needs);
    let (Some(known), Some(effective)) = (account, effective) else {
        return not_read("sshd, which was not asked yet".to_owned());
    };
    let effective = match effective {
        Ok(effective) => effective.clone(),
        Err(why) => return because(Reason::Unasked(why.clone()), Text::from("sshd -T: ") + said(why)),
    };
    let user_account = match known {
        Part::Present(account) => account,
        Part::Absent(_) => {
            let none = Objection::refuse(Stage::Account, Reason::NoUser, format!("sshd: there is no user {user}"));
            return LoginWay { effective, objections: vec![none], ..empty };
        }
        Part::Unreadable(why) => return LoginWay { effective, ..not_read(format!("sshd: {why}")) },
    };
    let client = client(user, (address, local, port), interface, user_account);
    let mut objections = access::objections(server, &effective, &client, client.local_address.is_some());
    let no_logins = risk::no_logins(&effective);
    objections.extend(no_logins.map(|(keyword, why)| Objection::refuse(Stage::SshdAccess, Reason::NoRoom(keyword), why)));
    objections.extend(account::objection(&effective, user, user_account));
    objections.extend(chroot::objection(host, &effective, user, user_account, needs));
    objections.extend(values::objections(host, &effective, needs));
    let ways = ways(host, &effective, &client, user_account, needs);
    let forwards_alone = forwarding::alone(&effective, user_account);
    let (shell, programs) = (Shell::of(user_account), sessions::programs(host, &effective, needs));
    let mut login = LoginWay { effective, objections, ways, forwards_alone, shell, programs, ..empty };
    login.no_files = user_files::none_of(&login, host, server, needs);
    login
}

/// Who comes from this address to that one and that port.
fn client(
    user: &str,
    (address, local, port): (IpAddr, Option<IpAddr>, u16),
    interface: Option<&str>,
    account: &Account,
) -> Client {
    Client {
        user: user.to_owned(),
        groups: Some(account.groups.clone()),
        host: text_of(address, interface),
        address,
        local_address: local.or(Some(address).filter(IpAddr::is_unspecified)),
        local_port: port,
        is_root: account.uid == 0,
        interface: interface.map(str::to_owned),
    }
}

#[cfg(test)]
impl WayIn {
    /// One login of alice, for tests.
    pub(crate) fn of_alice(effective: &str, ways: Methods, entered: Vec<Entrance>, read_at: Option<Timestamp>) -> Self {
        let address = IpAddr::from([203, 0, 113, 7]);
        let login = LoginWay {
            user: "alice".to_owned(),
            address,
            local: None,
            interface: None,
            effective: Effective::parse(effective),
            objections: Vec::new(),
            ways,
            entered,
            others: false,
            read_at,
            may_differ: false,
            forwards_alone: None,
            shell: Shell::Plain,
            programs: BTreeMap::new(),
            no_files: NoUserFiles::default(),
            opened: None,
        };
        Self { logins: vec![login], ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subsystem::sshd::Invocation;

    #[test]
    fn an_edit_decides_also_where_sshd_could_be_asked_about_neither_side() {
        const FILE: &str = "/etc/ssh/sshd_config";
        let server = |edited: &str| {
            let mut server = Server::with_files(Invocation::plain("/usr/sbin/sshd"), &[(FILE, "Port 22\n")]);
            server.edited.insert(FILE.to_owned(), (b"Port 22\n".to_vec(), edited.as_bytes().to_vec()));
            server
        };
        let before = Server::with_files(Invocation::plain("/usr/sbin/sshd"), &[(FILE, "Port 22\n")]);
        let found = |edited: &str| deciding(&before, &server(edited), &HostState::empty(), &mut Needs::new());
        assert_eq!(found("Port 22\nPermitRootLogin no\n").as_deref(), Some("permitrootlogin"));
        assert_eq!(found("Port 22\nX11Forwarding no\n"), None, "that keeps nobody out");
    }
}
