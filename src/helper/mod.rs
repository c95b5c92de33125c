//! The helper process: every liblxc call that forks runs in a freshly exec'd, single-threaded child.
