//! A changed configuration on a running container: everything of it, or nothing.
//!
//! ```text
//!   before, after ── limits ── (all users of a profile wait for each other) ── AppArmor ── devices ── nics ── proxies ── guest interface ──> Applied ── kept when the change is
//!                                                                    └────── undo() when it is not     written down
//! ```

use std::sync::Arc;

use super::error::Error;
use super::{Context, apparmor, confine, devices, guests, limits, nics, proxies};
use crate::api::wire::Config;
use crate::names::InstanceKey;
use crate::profile::Expanded;

/// What was changed, to be taken back when the change does not come about.
pub(super) struct Applied {
    limits: Option<limits::Changed>,
    apparmor: Option<apparmor::Changed>,
    devices: Option<devices::Changed>,
    /// Whether the guest interface was there before.
    guest: Option<guests::Switch>,
    nics: Option<nics::Changed>,
    proxies: Option<proxies::Changed>,
}

/// Brings the running container with this init from what `before` says to what `after` does. What only counts from its
/// next start on is left alone.
///
/// # Errors
/// Of what cannot be changed; then everything is as it was.
pub(super) async fn apply(
    context: &Arc<Context>,
    key: &InstanceKey,
    pid: i32,
    before: &Expanded,
    after: &Expanded,
) -> Result<Applied, Error> {
    begin(context, key, pid, before, after).await?.go_on(context, key, pid, before, after).await
}

/// What can be taken back without a trace, and is most often refused. [`Applied::go_on`] does the rest.
///
/// # Errors
/// As [`apply`].
pub(super) async fn begin(
    context: &Arc<Context>,
    key: &InstanceKey,
    pid: i32,
    before: &Expanded,
    after: &Expanded,
) -> Result<Applied, Error> {
    confine::load_modules(Some(&before.config), &after.config).await?;
    let limits = limits::change(context, &key.container(), pid, &before.config, &after.config).await?;
    Ok(Applied { limits, apparmor: None, devices: None, nics: None, proxies: None, guest: None })
}

impl Applied {
    /// The rest of the change.
    ///
    /// # Errors
    /// As [`apply`].
    pub(super) async fn go_on(
        mut self,
        context: &Arc<Context>,
        key: &InstanceKey,
        pid: i32,
        before: &Expanded,
        after: &Expanded,
    ) -> Result<Self, Error> {
        let applied = &mut self;
        let rest = async {
            applied.apparmor = apparmor::change(context, &key.container(), &before.config, &after.config).await?;
            applied.devices = devices::change(context, key, pid, before, after).await?;
            applied.nics = nics::change(context, key, pid, before, after).await?;
            applied.proxies = proxies::change(context, key, pid, before, after).await?;
            applied.guest = guests::change(context, key, pid, &before.config, &after.config).await?;
            Ok(())
        };
        match rest.await {
            Ok(()) => Ok(self),
            Err(error) => {
                self.undo().await;
                Err(error)
            }
        }
    }

    /// Puts what the instance is to remember of it into its configuration, which is about to be written down.
    pub(super) fn remember(&self, config: &mut Config) {
        if let Some(nics) = &self.nics {
            nics.remember(config);
        }
    }

    /// The change was written down elsewhere, in a profile: what the instance is to remember follows.
    pub(super) async fn kept(self) {
        if let Some(nics) = self.nics {
            nics.write_down().await;
        }
    }

    /// Takes it back, as far as that can be; what cannot is logged.
    pub(super) async fn undo(self) {
        if let Some(guest) = self.guest {
            guest.undo().await;
        }
        if let Some(proxies) = self.proxies {
            proxies.undo().await;
        }
        if let Some(nics) = self.nics {
            nics.undo().await;
        }
        if let Some(devices) = self.devices {
            devices.undo().await;
        }
        if let Some(apparmor) = self.apparmor {
            apparmor.undo().await;
        }
        if let Some(limits) = self.limits {
            limits.undo().await;
        }
    }
}
