//! What the kernel tells of hardware: running instances follow it, and processors are given out anew.
//!
//! ```text
//!   kernel ── uevents ──> hardware: instances that want some are woken, and look what is there now
//!                    └──> processors: Balancer
//! ```
//! A message is a reason to look, never the truth itself: so none that is lost, forged or late does harm. What is told of an
//! instance's nodes is told again inside.

use std::io;
use std::sync::Arc;

use tokio::io::Interest;

use super::blocking;
use super::error::Error;
use super::manager::Manager;
use super::request::Request;
use crate::names::InstanceKey;
use crate::sys::uevent::{Uevent, Uevents};
use crate::sys::watch;

impl Manager {
    /// Follows the hardware of the host, for as long as the daemon runs.
    pub async fn follow_hardware(&self) {
        if let Err(error) = self.try_follow_hardware().await {
            tracing::warn!(%error, "hardware that comes or goes will not be noticed");
        }
    }

    async fn try_follow_hardware(&self) -> io::Result<()> {
        let uevents = Uevents::open()?;
        let readable = watch::watch(uevents.readable()?, Interest::READABLE)?;
        // What happened before.
        self.look_at_hardware(&[]);
        loop {
            readable.ready(Interest::READABLE).await?.clear_ready();
            let heard = uevents.take()?;
            if heard.hardware {
                self.look_at_hardware(&heard.nodes);
            }
            if heard.processors {
                let (context, up) = (Arc::clone(self.context()), self.up());
                let again = blocking(move || {
                    context.cpus.again(&up, &context.dir.cgroup());
                    Ok::<_, Error>(())
                });
                if let Err(error) = again.await {
                    tracing::error!(%error, "giving processors out anew");
                }
            }
        }
    }

    /// The containers that are up, with their inits.
    fn up(&self) -> Vec<(String, i32)> {
        let model = self.context().db.model();
        let pid = |key: &InstanceKey| Some(self.snapshot(key).pid).filter(|pid| *pid != 0);
        model.instances.keys().filter_map(|key| Some((key.container(), pid(key)?))).collect()
    }

    fn look_at_hardware(&self, events: &[Uevent]) {
        for key in self.context().sources.hardware_changed(events) {
            // One that is just gone needs nothing.
            self.send(&key, Request::Sources);
        }
    }
}
