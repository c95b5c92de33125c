//! Safe kernel interfaces: file descriptors, pidfds, ptys, mounts, user namespaces, netlink, cgroups.
