//! The AppArmor profile of an instance, from its start to its end.
//!
//! ```text
//!   start:  parts + raw.apparmor ── stays within its profile? ──> file (atomically) ──> loaded ──> liblxc's label
//!   live:   the file's parts + another raw.apparmor ── the same ──> loaded in the place of the old one
//!   stop:   out of the kernel; the file stays, so that the next start need not compile it
//!   rename, deletion: the file goes
//! ```
//! No journal: a profile in the kernel whose container does not run is taken out when the daemon starts ([`sweep`]).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::Error;
use super::{Context, blocking};
use crate::api::wire::Config;
use crate::names::InstanceKey;
use crate::security::Confinement;
use crate::security::apparmor::{Label, Names, PLACE, Parts, Profile};
use crate::state_dir::StateDir;
use crate::sys::apparmor::{Kernel, Missing, Parser};

const RAW: &str = "raw.apparmor";

/// AppArmor on this host, found out once at the daemon's start.
#[derive(Debug)]
pub struct AppArmor {
    kernel: Result<Kernel, Missing>,
    parser: Option<Parser>,
    parts: Parts,
    switched_off: bool,
}

/// How containers are confined on this host.
enum Means<'a> {
    /// The kernel has no AppArmor.
    None,
    /// All alike, by no profile of ours.
    Alike(Label),
    /// Each by its own profile.
    Own(&'a Kernel, &'a Parser),
}

impl AppArmor {
    /// Looks at the host. `switched_off`: by the administrator, whatever there is.
    pub fn find(switched_off: bool) -> Self {
        let (kernel, parser) = (Kernel::find(), Parser::find());
        let parts = match Parts::of(Path::new(PLACE)) {
            Ok(parts) => parts.unwrap_or_else(Parts::built_in),
            Err(error) => {
                tracing::error!(%error, "the AppArmor rules of this directory are not used, but those built in");
                Parts::built_in()
            }
        };
        match (&kernel, &parser) {
            (Err(Missing::Kernel), _) => {}
            _ if switched_off => tracing::warn!("containers are not confined by AppArmor: it was switched off"),
            (Err(Missing::Confined(label)), _) => {
                tracing::warn!(%label, "containers get no AppArmor profiles of their own: the daemon is confined itself");
            }
            (Ok(_), None) => {
                tracing::warn!("containers are not confined by AppArmor: apparmor_parser is not installed")
            }
            (Ok(_), Some(_)) => tracing::info!(edition = parts.edition(), "containers are confined by AppArmor"),
        }
        Self { kernel, parser, parts, switched_off }
    }

    fn means(&self) -> Means<'_> {
        match (&self.kernel, &self.parser) {
            (Err(Missing::Kernel), _) => Means::None,
            // As the daemon itself.
            (Err(Missing::Confined(_)), _) => Means::Alike(Label::unchanged()),
            _ if self.switched_off => Means::Alike(Label::unconfined()),
            (Ok(_), None) => Means::Alike(Label::unconfined()),
            (Ok(kernel), Some(parser)) => Means::Own(kernel, parser),
        }
    }

    /// Whether the parser takes these lines at the end of a profile, and whether they stay within it. Without a parser
    /// nothing is known against them, and nothing can be loaded.
    fn check(&self, raw: &str) -> Result<(), Error> {
        // NUL is refused wherever it stands, in other words.
        let (Some(parser), false) = (&self.parser, raw.is_empty() || raw.contains('\0')) else { return Ok(()) };
        let names = Names::of("c", Path::new("/"));
        let confinement = Confinement { privileged: false, nesting: false, mount_cgroups: false };
        let profile = self.parts.profile(&names, confinement, false);
        check_within(parser, &names, &profile, raw)?;
        parser.check(&profile.with(raw)).map_err(|error| refused(&profile, raw, &error))
    }
}

/// The parser counts the lines of the whole profile; people those of what they wrote.
fn refused(profile: &Profile, raw: &str, error: &std::io::Error) -> Error {
    let text = error.to_string();
    let before = profile.lines_before();
    let own = text.rsplit_once("line ").and_then(|(start, rest)| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, end) = rest.split_at_checked(digits)?;
        let line = number.parse::<usize>().ok()?.checked_sub(before)?;
        // Not before its first, and at most the profile's last: the brace.
        (1..=raw.lines().count() + 1).contains(&line).then(|| format!("{start}line {line} of it{end}"))
    });
    Error::RawAppArmor { reason: own.unwrap_or(text) }
}

/// Refuses what closes the profile and opens others: the parser itself says which profiles it finds.
fn check_within(parser: &Parser, names: &Names, profile: &Profile, raw: &str) -> Result<(), Error> {
    let found = parser.names(&profile.with(raw)).map_err(|error| refused(profile, raw, &error))?;
    let inside = format!("{}//", names.profile);
    let others: Vec<&String> = found.iter().filter(|name| !name.starts_with(&inside)).collect();
    match others.as_slice() {
        [only] if **only == names.profile => Ok(()),
        others => {
            let other = others.iter().find(|name| ***name != names.profile);
            let other = other.map_or("a second one", |name| name.as_str());
            Err(Error::RawAppArmor {
                reason: format!("it must stay within the instance's profile, and defines {other:?}"),
            })
        }
    }
}

/// What a profile's file is called while it is written. No instance's name has a dot.
fn unfinished(path: &Path) -> PathBuf {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    new.into()
}

/// Writes the file, all of it or nothing; one with this text is left as it is, so that its compiled form stays good.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let failed = |error| Error::Io { doing: "write", path: path.to_owned(), error };
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let new = unfinished(path);
    std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path)).map_err(failed)
}

/// Checks, writes and loads a profile.
fn load(parser: &Parser, dir: &StateDir, container: &str, profile: &Profile, raw: &str) -> Result<(), Error> {
    if !raw.is_empty() {
        check_within(parser, &Names::of(container, dir.root()), profile, raw)?;
    }
    let path = dir.apparmor(container);
    write(&path, &profile.with(raw))?;
    parser.load(&path, &dir.apparmor_cache()).map_err(|error| {
        if raw.is_empty() {
            Error::AppArmor { doing: "load the instance's AppArmor profile", error }
        } else {
            refused(profile, raw, &error)
        }
    })
}

/// Takes what is in the kernel for a container out of it.
fn unload(kernel: &Kernel, parser: &Parser, names: &Names) -> std::io::Result<()> {
    kernel.remove_namespace(&names.namespace)?;
    if kernel.profiles()?.contains(&names.profile) { parser.unload(&names.profile) } else { Ok(()) }
}

fn raw(config: &Config) -> &str {
    config.get(RAW).map_or("", String::as_str)
}

/// Checks `raw.apparmor` of a new configuration, an instance's or a profile's own, unless it is as before.
///
/// # Errors
/// [`Error::RawAppArmor`] with what the parser says, where one is installed.
pub(super) async fn check_raw(context: &Arc<Context>, before: &Config, after: &Config) -> Result<(), Error> {
    if raw(before) == raw(after) {
        return Ok(());
    }
    let (context, text) = (Arc::clone(context), raw(after).to_owned());
    blocking(move || context.apparmor.check(&text)).await
}

/// Loads the profile of a container that is about to start with this expanded configuration. What liblxc is to confine
/// it by; none where the kernel has no AppArmor.
///
/// # Errors
/// When the profile cannot be made or loaded; nothing starts without it.
pub(super) async fn prepare(
    context: &Arc<Context>,
    container: &str,
    confinement: Confinement,
    config: &Config,
) -> Result<Option<Label>, Error> {
    let (context, container, raw) = (Arc::clone(context), container.to_owned(), raw(config).to_owned());
    blocking(move || {
        let (kernel, parser) = match context.apparmor.means() {
            Means::None => return Ok(None),
            Means::Alike(label) => return Ok(Some(label)),
            Means::Own(kernel, parser) => (kernel, parser),
        };
        let names = Names::of(&container, context.dir.root());
        let namespace = confinement.nesting && kernel.stacks();
        let profile = context.apparmor.parts.profile(&names, confinement, namespace);
        load(parser, &context.dir, &container, &profile, &raw)?;
        if namespace {
            let failed = |error| Error::AppArmor { doing: "make the instance's namespace of AppArmor profiles", error };
            kernel.make_namespace(&names.namespace).map_err(failed)?;
        }
        Ok(Some(names.label(namespace)))
    })
    .await
}

/// The container is down: its profile goes out of the kernel. One that cannot goes when the daemon starts next.
pub(super) async fn forget(context: &Arc<Context>, container: &str) {
    let (Ok(_), Some(_)) = (&context.apparmor.kernel, &context.apparmor.parser) else { return };
    let (context, name) = (Arc::clone(context), container.to_owned());
    let gone = blocking(move || {
        let (Ok(kernel), Some(parser)) = (&context.apparmor.kernel, &context.apparmor.parser) else { return Ok(()) };
        unload(kernel, parser, &Names::of(&name, context.dir.root()))
            .map_err(|error| Error::AppArmor { doing: "unload the AppArmor profile", error })
    });
    if let Err(error) = gone.await {
        tracing::warn!(%container, %error, "its AppArmor profile stays loaded");
    }
}

/// Removes the file of a container's profile, and what was compiled of it; none is fine. Blocking.
pub(super) fn remove(dir: &StateDir, container: &str) -> Result<(), Error> {
    let profile = dir.apparmor(container);
    let name = profile.file_name().unwrap_or_default().to_owned();
    let cached = std::fs::read_dir(dir.apparmor_cache()).into_iter().flatten().flatten();
    let half = unfinished(&profile);
    for path in cached.map(|entry| entry.path().join(&name)).chain([half, profile]) {
        match std::fs::remove_file(&path) {
            Err(error) if !matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                return Err(Error::Io { doing: "remove", path, error });
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Takes out of the kernel what earlier lives of this daemon left there for containers that do not run. `up`: those that
/// do, or of which nobody knows.
pub(super) async fn sweep(context: &Arc<Context>, up: BTreeSet<InstanceKey>) {
    let context = Arc::clone(context);
    let swept = blocking(move || {
        let (Ok(kernel), Some(parser)) = (&context.apparmor.kernel, &context.apparmor.parser) else { return Ok(()) };
        let root = context.dir.root();
        let kept: Vec<Names> = up.iter().map(|key| Names::of(&key.container(), root)).collect();
        let failed = |error| Error::AppArmor { doing: "take an AppArmor profile out of the kernel", error };
        for name in kernel.namespaces() {
            if Names::is_namespace(&name, root) && kept.iter().all(|names| names.namespace != name) {
                kernel.remove_namespace(&name).map_err(failed)?;
            }
        }
        for name in kernel.profiles().map_err(failed)? {
            if Names::is_profile(&name, root) && kept.iter().all(|names| names.profile != name) {
                tracing::info!(profile = %name, "taking out the AppArmor profile of a container that does not run");
                parser.unload(&name).map_err(failed)?;
            }
        }
        Ok::<(), Error>(())
    });
    if let Err(error) = swept.await {
        tracing::warn!(%error, "profiles of containers that do not run stay loaded");
    }
}

/// A profile that was replaced under a running container.
pub(super) struct Changed {
    context: Arc<Context>,
    container: String,
    profile: Profile,
    before: String,
}

/// Has a running container confined as another `raw.apparmor` says. The rest of its profile is that of its start.
///
/// # Errors
/// When the parser or the kernel refuses; then all is as before.
pub(super) async fn change(
    context: &Arc<Context>,
    container: &str,
    before: &Config,
    after: &Config,
) -> Result<Option<Changed>, Error> {
    let (before, after) = (raw(before).to_owned(), raw(after).to_owned());
    if before == after {
        return Ok(None);
    }
    let (context, container) = (Arc::clone(context), container.to_owned());
    blocking(move || {
        let Means::Own(kernel, parser) = context.apparmor.means() else { return Ok(None) };
        let names = Names::of(&container, context.dir.root());
        let loaded = kernel.profiles().is_ok_and(|loaded| loaded.contains(&names.profile));
        let text = std::fs::read_to_string(context.dir.apparmor(&container)).unwrap_or_default();
        // One that was started while AppArmor was switched off has none.
        let (true, Some(profile)) = (loaded, Profile::of(&text)) else { return Ok(None) };
        let changed = Changed { context: Arc::clone(&context), container: container.clone(), profile, before };
        match load(parser, &context.dir, &container, &changed.profile, &after) {
            Ok(()) => Ok(Some(changed)),
            Err(error) => {
                // What did not load has replaced nothing in the kernel; the file is the daemon's memory of that.
                write(&context.dir.apparmor(&container), &changed.profile.with(&changed.before))?;
                Err(error)
            }
        }
    })
    .await
}

impl Changed {
    /// Takes it back; what cannot be is logged.
    pub(super) async fn undo(self) {
        let name = self.container.clone();
        let undone = blocking(move || {
            let Means::Own(_, parser) = self.context.apparmor.means() else { return Ok(()) };
            load(parser, &self.context.dir, &self.container, &self.profile, &self.before)
        });
        if let Err(error) = undone.await {
            tracing::error!(container = %name, %error, "its AppArmor profile could not be put back");
        }
    }
}

#[cfg(test)]
mod tests;
