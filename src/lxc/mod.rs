//! Safe liblxc.
