//! Safe kernel interfaces: file descriptors, pidfds, ptys, mounts, user namespaces, netlink, cgroups, hardware.

pub mod activation;
pub mod apparmor;
pub mod bpf;
pub mod cgroup;
pub mod cgroup_write;
pub mod features;
pub mod freezer;
pub mod hardware;
pub mod inotify;
pub mod lxcfs;
pub mod module;
pub mod mount;
pub mod namespace;
pub mod netlink;
mod netlink_wire;
pub mod notify;
pub mod peercred;
pub mod process;
pub mod program;
pub mod pty;
pub mod seccomp;
pub mod socket;
pub mod space;
pub mod uevent;
pub mod userns;
pub mod watch;
