//! The command-line client `warren`. It speaks only REST and shares only `api::wire` and `names` with the daemon.
