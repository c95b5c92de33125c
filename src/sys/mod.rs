//! Safe kernel interfaces: file descriptors, pidfds, ptys, mounts, user namespaces, netlink, cgroups.

pub mod cgroup;
pub mod mount;
pub mod netlink;
mod netlink_wire;
pub mod process;
pub mod pty;
pub mod socket;
pub mod userns;
