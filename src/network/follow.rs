//! Names of instances outside `default`: dnsmasq gives names by DHCP with one label only, so these stand in a hosts file of
//! their own, which follows the leases.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::Interest;

use super::dnsmasq::{self, Files};
use super::manager::Inner;
use super::{Error, Manager, leases};
use crate::sys::inotify::Paths;
use crate::sys::watch;

/// dnsmasq writes its file anew, in parts.
const SETTLED: Duration = Duration::from_millis(20);

/// Writes the names of a network; whether they were others.
pub(super) fn write(domain: &str, files: &Files) -> Result<bool, Error> {
    let leases = leases::read(files);
    let text = leases::hosts_file(domain, &leases::entries(&files.hosts()), &leases);
    let path = files.names();
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    dnsmasq::write(&path, &text)?;
    Ok(true)
}

impl Manager {
    /// Keeps names with the leases, as long as the daemon lives.
    pub async fn follow_leases(&self) {
        loop {
            if let Err(error) = self.try_follow().await {
                tracing::error!(%error, "names of instances outside the project default are late");
            }
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    }

    async fn try_follow(&self) -> io::Result<()> {
        let mut paths = Paths::of_contents()?;
        let readable = watch::watch(paths.readable()?, Interest::READABLE)?;
        loop {
            let others = self.inner.others.notified();
            let files = self.inner.lease_files();
            paths.set(files.iter().map(PathBuf::as_path))?;
            // After the watches are set, so that nothing is missed.
            let written = self.blocking(|inner| {
                inner.write_names();
                Ok(())
            });
            written.await.map_err(io::Error::other)?;
            let comes = async {
                loop {
                    readable.ready(Interest::READABLE).await?.clear_ready();
                    let happened = paths.take()?;
                    if files.iter().any(|path: &PathBuf| happened.concerns(path as &Path)) {
                        return Ok::<_, io::Error>(());
                    }
                }
            };
            tokio::select! {
                come = comes => come?,
                () = others => {}
            }
            tokio::time::sleep(SETTLED).await;
        }
    }
}

impl Inner {
    fn lease_files(&self) -> Vec<PathBuf> {
        self.lock().keys().map(|network| self.files(network).leases()).collect()
    }

    /// Of all networks that are up; what fails is logged, as nobody waits for it.
    fn write_names(&self) {
        for (network, known) in &*self.lock() {
            let files = self.files(network);
            match write(&known.domain, &files) {
                Ok(true) => dnsmasq::reload(&files),
                Ok(false) => {}
                Err(error) => tracing::error!(%network, %error, "writing its names"),
            }
        }
    }
}
