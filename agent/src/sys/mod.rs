//! The operating system's edges: checked files, child processes, D-Bus, netlink. No other place but `subsystem::nf_tables`,
//! which calls libnftnl, may hold unsafe code; each block says why it is sound.

pub mod activation;
pub mod child;
pub mod clock;
pub mod confine;
pub mod dbus;
pub mod descriptors;
pub mod files;
pub mod jobs;
pub mod memory;
pub mod names;
pub mod namespace;
pub mod netlink;
pub mod passwd;
pub mod peers;
pub mod process;
pub mod roots;
pub mod rtnetlink;
mod systemd_socket;
pub mod view;
pub mod xt_sockets;
