//! Device nodes that come and go: a running container is brought to what is there now.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FileType;

use super::devices::Running;
use super::error::Error;
use super::hotplug::followed;
use super::inside::Inside;
use super::{Context, blocking, hardware, plug};
use crate::api::wire::{Config, Devices};
use crate::device::Set;
use crate::names::InstanceKey;
use crate::profile::Expanded;
use crate::sys::uevent::Uevent;

/// Brings the nodes that come and go with their sources to what is there of these now. Each for itself: what fails of one
/// is logged, and tried again when something happens to it.
pub(super) async fn follow(context: &Arc<Context>, key: &InstanceKey, pid: i32, expanded: &Expanded) {
    let Ok(set) = Set::parse(&expanded.devices) else { return };
    follow_hardware(context, key, pid, expanded, &set).await;
    for (device, plug) in &set.plugs {
        let Some(node) = followed(plug) else { continue };
        let changed = async {
            let running = Running::new(context, key, pid);
            let plugged = running.plugged().await?;
            let (source, block) = (PathBuf::from(&node.source), node.block);
            let inside = plugged.contains_key(device.as_str()).then(|| running.dir.join(plug::file_name(device, plug)));
            let (there, inside) = blocking(move || {
                let inside = inside.map(|path| numbers(&path, block));
                Ok::<_, Error>((numbers(&source, block), inside))
            })
            .await?;
            if inside.is_some() && inside != Some(there) {
                let mut less = plugged.clone();
                less.remove(device.as_str());
                running.change(plugged, &less).await?;
                tracing::info!(instance = %key, %device, "taken out, as its source is gone");
            } else if inside.is_some() {
                return Ok(());
            }
            if there.is_some() {
                let running = Running::new(context, key, pid);
                let plugged = running.plugged().await?;
                let mut more = plugged.clone();
                more.extend(expanded.devices.get_key_value(device.as_str()).map(|(k, v)| (k.clone(), v.clone())));
                running.change(plugged, &more).await?;
                tracing::info!(instance = %key, %device, "put in, as its source has come");
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = changed.await {
            tracing::warn!(instance = %key, %device, %error, "following its source");
        }
    }
}

/// The numbers of the device at `path`; none when there is no such one.
fn numbers(path: &Path, block: bool) -> Option<(u32, u32)> {
    let stat = rustix::fs::stat(path).ok()?;
    let wanted = if block { FileType::BlockDevice } else { FileType::CharacterDevice };
    let fits = FileType::from_raw_mode(stat.st_mode) == wanted;
    fits.then(|| (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)))
}

/// The same for hardware that is known by what it is. Also one that is required goes when it is unplugged.
async fn follow_hardware(context: &Arc<Context>, key: &InstanceKey, pid: i32, expanded: &Expanded, set: &Set) {
    if set.matched.is_empty() {
        return;
    }
    let resolved = match hardware::resolve(&expanded.devices, &expanded.config).await {
        Ok(resolved) => resolved.devices,
        Err(error) => return tracing::warn!(instance = %key, %error, "looking for its hardware"),
    };
    let before = Running::new(context, key, pid).plugged().await.unwrap_or_default();
    for device in set.matched.keys() {
        let changed = async {
            let running = Running::new(context, key, pid);
            let plugged = running.plugged().await?;
            let others = plugged.iter().filter(|(_, node)| !hardware::stands_for(node, device));
            let own = resolved.iter().filter(|(_, node)| hardware::stands_for(node, device));
            let wanted: Devices = others.chain(own).map(|(name, node)| (name.clone(), node.clone())).collect();
            if wanted != plugged {
                running.change(plugged, &wanted).await?;
                tracing::info!(instance = %key, %device, "its hardware has come or gone");
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = changed.await {
            tracing::warn!(instance = %key, %device, %error, "following its hardware");
        }
    }
    let (events, gone) = context.sources.take_heard(key);
    let of = |devices: &Devices| -> Vec<Config> {
        devices.values().filter(|node| hardware::is_of_hardware(node)).cloned().collect()
    };
    let (before, now) = (of(&before), of(&resolved));
    let known = |event: &Uevent| before.iter().chain(&now).chain(&gone).any(|node| is_of(event, node));
    let heard: Vec<Uevent> = events.into_iter().filter(known).collect();
    context.sources.took_out(key, before.iter().filter(|node| !now.contains(node)).cloned().collect());
    if !heard.is_empty()
        && let Err(error) = pass_on(context, key, pid, heard).await
    {
        tracing::warn!(instance = %key, %error, "telling it of its hardware");
    }
}

/// Whether the kernel told of this node.
fn is_of(event: &Uevent, node: &Config) -> bool {
    let property = |name: &str| node.get(name).map_or("", String::as_str);
    let kind = if event.get("SUBSYSTEM") == "block" { "unix-block" } else { "unix-char" };
    property("type") == kind && property("major") == event.get("MAJOR") && property("minor") == event.get("MINOR")
}

/// Tells it inside, where the kernel does not by itself.
async fn pass_on(context: &Arc<Context>, key: &InstanceKey, pid: i32, events: Vec<Uevent>) -> Result<(), Error> {
    let container = context.container(key);
    let inside = Inside::open(pid, &container.name)?;
    // One that shares the host's users hears the kernel; in the host's network all others would hear it, too.
    let Some(users) = inside.users.as_ref().filter(|_| !inside.shares_network()) else { return Ok(()) };
    Ok(context.launcher.uevents(&container, events, &[inside.network.as_fd(), users.as_fd()]).await?)
}
