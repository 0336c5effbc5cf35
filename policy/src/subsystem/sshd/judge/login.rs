//! A login as the stages ask about it: who it is, to which address, which lines count for it, and the unit that serves it. Judges nothing.

use std::net::IpAddr;

use crate::host::{HostState, Part};
use crate::subsystem::sshd::config::{Client, Settings, evaluate};
use crate::subsystem::sshd::facts::effective::Effective;
use crate::subsystem::sshd::facts::state::{Account, Login, Server};
use crate::verdict::Connection;

/// The lines that count for a login, or for everybody; none where the files cannot be followed.
pub fn settings(server: &Server, client: Option<&Client>) -> Settings {
    let Ok(tree) = &server.tree else { return Settings::new() };
    evaluate(tree, &server.invocation.options, client).unwrap_or_default()
}

/// A login of which all is known: what sshd makes of its files for it, who it is, and the account.
pub fn known_login<'a>(host: &'a HostState, connection: &Connection) -> Option<(&'a Effective, Client, &'a Part<Account>)> {
    let (user, address) = (connection.user.as_ref()?, connection.source.single()?);
    let login = Login::new(user, address, local_address(host, address).unwrap_or(address), connection.port)?;
    let effective = host.sshd.logins.get(&login)?.as_ref().ok()?;
    let account = host.sshd.accounts.get(user)?;
    Some((effective, client(&login, account)?, account))
}

/// The client as our own evaluation takes it; `None` where the account could not be read.
pub fn client(login: &Login, account: &Part<Account>) -> Option<Client> {
    let groups = match account {
        Part::Present(Account { groups, .. }) => Some(groups.clone()),
        Part::Absent(_) => None,
        Part::Unreadable(_) => return None,
    };
    Some(Client {
        user: login.user().to_owned(),
        groups,
        host: login.texts().0,
        address: login.address,
        local_address: Some(login.local_address),
        local_port: login.local_port,
        is_root: account.present().is_some_and(|account| account.uid == 0),
        interface: login.interface().map(str::to_owned),
    })
}

/// An address of the host that a client could come to, as far as can be told by its own.
pub fn local_address(host: &HostState, address: IpAddr) -> Option<IpAddr> {
    let same = |ip: &&IpAddr| ip.is_ipv4() == address.is_ipv4() && ip.is_loopback() == address.is_loopback();
    host.listener.present()?.addresses.iter().find(same).copied()
}

/// The unit that runs it, for commands to paste.
pub fn unit(host: &HostState) -> String {
    let units = || host.listener.present().into_iter().flat_map(|state| state.units.iter().flatten());
    let service = units().find(|unit| unit.name.ends_with(".service") && unit.load == "loaded");
    service.map_or_else(|| "ssh".to_owned(), |unit| unit.name.trim_end_matches(".service").to_owned())
}
