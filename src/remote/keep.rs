//! Rows of images: how one becomes known, and how one goes.
//!
//! ```text
//!   row "creating" ──files──> row "ready", aliases, or those of the one it replaces    crash: undone
//!   row "deleting" ──files, unless another project has the image──> no row            crash: finished
//! ```

use std::sync::Arc;

use serde_json::Map;

use super::blocking;
use super::error::Error;
use super::found::Found;
use crate::api::wire::{Config, ImageOrigin};
use crate::db::{self, Alias, Image, Phase, Seconds, Tx};
use crate::events::lifecycle::{Lifecycle, Requestor};
use crate::image::Received;
use crate::instance::Context;
use crate::names::{AliasName, Fingerprint, ProfileName, ProjectName, file_name};
use crate::project;

/// What is said of an image that comes here, beside what it says itself.
#[derive(Debug, Clone, Default)]
pub struct Keep {
    /// Anyone may read it.
    pub public: bool,
    /// Newer ones take its place.
    pub auto_update: bool,
    /// Fetched only to make something of it.
    pub cached: bool,
    /// Go before what the server says.
    pub properties: Config,
    /// Names here; one that another image has moves.
    pub aliases: Vec<(AliasName, String)>,
    /// Of instances made from it; `None`: `default`.
    pub profiles: Option<Vec<ProfileName>>,
    /// `None`: what the server says.
    pub expires_at: Option<Seconds>,
    /// Empty: what the server says.
    pub filename: String,
    /// Where it comes from.
    pub origin: Option<ImageOrigin>,
    /// The older one, whose names it takes and which goes as soon as it is here. When that one is gone, nothing comes.
    pub replaces: Option<Arc<Image>>,
    /// Who asked.
    pub requestor: Option<Requestor>,
}

/// Tells everyone what became of an image.
pub(super) fn tell(
    context: &Context,
    action: &'static str,
    project: &ProjectName,
    fingerprint: &Fingerprint,
    requestor: Option<&Requestor>,
) {
    let created = action == "image-created";
    context.bus.lifecycle(Lifecycle {
        action,
        source: format!("/1.0/images/{fingerprint}"),
        project,
        context: created.then(|| ("type".to_owned(), "container".into())).into_iter().collect::<Map<_, _>>(),
        requestor,
    });
}

/// The row of the image that is to be replaced.
fn replaced<'a>(tx: &'a Tx<'_>, old: &Image) -> Option<&'a Arc<Image>> {
    let row = tx.model().images.get(&(old.project.clone(), old.fingerprint.clone()));
    row.filter(|image| image.phase == Phase::Ready)
}

/// Gives `new` what `old` had: its names, the time of its last use, and what was said of it here. One that is
/// deleted leaves nothing to anybody.
fn succeed(tx: &mut Tx<'_>, old: &Image, new: &Image) -> Result<(), Error> {
    let before = replaced(tx, old).cloned().ok_or_else(|| Error::Deleted { fingerprint: old.fingerprint.clone() })?;
    // It may be the newer one of another image, too, for which it was made so meanwhile.
    let (is_shown, follows) = (new.public && !old.public, new.auto_update && !old.auto_update);
    let is_its = |alias: &&Arc<Alias>| alias.project == before.project && alias.target == before.fingerprint;
    let aliases: Vec<Arc<Alias>> = tx.model().aliases.values().filter(is_its).cloned().collect();
    // What the server says of the newer one counts, unless somebody here has said something else.
    let expiry_of = if before.is_expiry_set && !new.is_expiry_set { &before } else { new };
    let mut properties = before.properties.clone();
    properties.extend(new.properties.clone());
    tx.put_image(Image {
        expires_at: expiry_of.expires_at,
        is_expiry_set: expiry_of.is_expiry_set,
        properties,
        last_used_at: before.last_used_at.max(new.last_used_at),
        public: before.public || is_shown,
        auto_update: before.auto_update || follows,
        cached: before.cached && new.cached,
        profiles: before.profiles.clone(),
        ..new.clone()
    })?;
    for alias in aliases {
        tx.put_alias(Alias { target: new.fingerprint.clone(), ..(*alias).clone() })?;
    }
    Ok(())
}

fn put_aliases(tx: &mut Tx<'_>, image: &Image, aliases: &[(AliasName, String)]) -> Result<(), Error> {
    for (name, description) in aliases {
        tx.put_alias(Alias {
            project: image.project.clone(),
            name: name.clone(),
            description: description.clone(),
            target: image.fingerprint.clone(),
        })?;
    }
    Ok(())
}

/// Takes an image that is here already: the project's own, or that of another one. `None`: it is not here.
///
/// # Errors
/// When somebody is just bringing it here or taking it away.
pub(super) async fn adopt(
    context: &Arc<Context>,
    project: &ProjectName,
    found: &Found,
    keep: &Keep,
) -> Result<Option<Arc<Image>>, Error> {
    let fingerprint = &found.fingerprint;
    let is_here = |image: &&Arc<Image>| image.fingerprint == *fingerprint && image.phase == Phase::Ready;
    if !context.db.model().images.values().any(|image| is_here(&image)) {
        return Ok(None);
    }
    let (wanted, keep) = ((project.clone(), fingerprint.clone()), keep.clone());
    let requestor = keep.requestor.clone();
    let written = context.db.write(move |tx| {
        project::require(tx.model(), &wanted.0)?;
        let of_it = tx.model().images.values().filter(|image| image.fingerprint == wanted.1);
        let ready: Vec<_> = of_it.filter(|image| image.phase == Phase::Ready).cloned().collect();
        let own = tx.model().images.get(&wanted).cloned();
        let succeeds = match &keep.replaces {
            Some(old) if replaced(tx, old).is_none() => {
                // Unless it was another refresh that took it away.
                let newer = own.filter(|own| own.phase == Phase::Ready && own.fingerprint != old.fingerprint);
                let deleted = || Error::Deleted { fingerprint: old.fingerprint.clone() };
                return newer.map(|newer| Some((newer, false))).ok_or_else(deleted);
            }
            replaces => replaces.as_deref().filter(|old| old.fingerprint != wanted.1),
        };
        let (image, is_new) = match (own, ready.first()) {
            (Some(own), _) if own.phase == Phase::Ready => (changed(&own, &keep), false),
            // The files of another project's are its, too.
            (None, Some(other)) => (taken_over(other, wanted.0, &keep), true),
            (Some(_) | None, _) => return Ok(None),
        };
        match succeeds {
            Some(old) => succeed(tx, old, &image)?,
            None => tx.put_image(image.clone())?,
        }
        if is_new {
            project::check_images(tx.model(), &image.project)?;
        }
        put_aliases(tx, &image, &keep.aliases)?;
        Ok::<_, Error>(Some((Arc::new(image), is_new)))
    });
    let Some((image, is_new)) = written.await? else { return Ok(None) };
    if is_new {
        tell(context, "image-created", project, fingerprint, requestor.as_ref());
    }
    Ok(Some(image))
}

/// One that is here, asked for once more.
fn changed(old: &Image, keep: &Keep) -> Image {
    let mut image = old.clone();
    if keep.cached {
        return image;
    }
    // What it follows by a name of its own it goes on following; only a cached one has no such name.
    let follows = old.update_source.is_some() && !old.cached;
    image.cached = false;
    image.public |= keep.public;
    image.auto_update |= keep.auto_update;
    image.properties.extend(keep.properties.clone());
    image.profiles = keep.profiles.clone().unwrap_or(image.profiles);
    image.expires_at = keep.expires_at.unwrap_or(image.expires_at);
    image.is_expiry_set |= keep.expires_at.is_some();
    if let Some(origin) = keep.origin.clone().filter(|origin| !follows && !origin.alias.is_empty()) {
        image.update_source = Some(origin);
    }
    image
}

fn taken_over(other: &Image, project: ProjectName, keep: &Keep) -> Image {
    let mut properties = other.properties.clone();
    properties.extend(keep.properties.clone());
    Image {
        project,
        public: keep.public,
        auto_update: keep.auto_update,
        cached: keep.cached,
        properties,
        profiles: keep.profiles.clone().unwrap_or_else(default_profiles),
        expires_at: keep.expires_at.unwrap_or(other.expires_at),
        is_expiry_set: keep.expires_at.is_some(),
        last_used_at: 0,
        uploaded_at: db::now(),
        update_source: keep.origin.clone(),
        ..other.clone()
    }
}

fn default_profiles() -> Vec<ProfileName> {
    ProfileName::new("default").into_iter().collect()
}

/// Puts a verified image into the store and the database. `found`: what a server says about it.
///
/// # Errors
/// When the project has it already, what it replaces is gone, or of disk and database: then it is not here.
pub async fn keep(
    context: &Arc<Context>,
    project: &ProjectName,
    received: Received,
    found: Option<&Found>,
    keep: Keep,
) -> Result<Arc<Image>, Error> {
    let metadata = &received.metadata;
    let said = found.filter(|found| !found.properties.is_empty());
    let mut properties = said.map_or_else(|| metadata.properties.clone(), |found| found.properties.clone());
    properties.extend(keep.properties.clone());
    let told = |of: fn(&Found) -> Seconds| found.map(of).filter(|at| *at != 0);
    let expires_at = keep.expires_at.or_else(|| told(|found| found.expires_at)).or(metadata.expiry_date);
    let record = Image {
        project: project.clone(),
        fingerprint: received.fingerprint.clone(),
        phase: Phase::Creating,
        // Clients make files by it.
        filename: file_name(&keep.filename),
        size: received.size,
        public: keep.public,
        auto_update: keep.auto_update,
        cached: keep.cached,
        architecture: metadata.architecture.clone(),
        properties,
        profiles: keep.profiles.clone().unwrap_or_else(default_profiles),
        created_at: told(|found| found.created_at).unwrap_or(metadata.creation_date),
        expires_at: expires_at.unwrap_or(0),
        is_expiry_set: keep.expires_at.is_some(),
        last_used_at: 0,
        uploaded_at: db::now(),
        update_source: keep.origin.clone(),
    };
    let guard = context.images.lock(&record.fingerprint).await;
    let row = record.clone();
    context
        .db
        .write(move |tx| {
            project::require(tx.model(), &row.project)?;
            if tx.model().image(&row.project, &row.fingerprint).is_some() {
                return Err(Error::Exists { fingerprint: row.fingerprint });
            }
            let project = row.project.clone();
            tx.put_image(row)?;
            Ok(project::check_images(tx.model(), &project)?)
        })
        .await?;
    if let Err(error) = blocking(move || Ok(received.commit()?)).await {
        let (project, fingerprint) = (record.project.clone(), record.fingerprint.clone());
        context.db.write(move |tx| Ok::<_, Error>(tx.delete_image(&project, &fingerprint)?)).await?;
        return Err(error);
    }
    let (image, requestor, replaces) = (Image { phase: Phase::Ready, ..record.clone() }, keep.requestor, keep.replaces);
    let row = image.clone();
    let written = context.db.write(move |tx| {
        match &replaces {
            Some(old) => succeed(tx, old, &row)?,
            None => tx.put_image(row.clone())?,
        }
        put_aliases(tx, &row, &keep.aliases)
    });
    if let Err(error) = written.await {
        drop(guard);
        remove(context, &record).await?;
        return Err(error);
    }
    tell(context, "image-created", project, &image.fingerprint, requestor.as_ref());
    Ok(Arc::new(image))
}

/// Removes files and row of an image in phase `deleting` or `creating`.
///
/// # Errors
/// Then the row stays, and the next start tries again.
pub async fn remove(context: &Arc<Context>, image: &Image) -> Result<(), Error> {
    let _guard = context.images.lock(&image.fingerprint).await;
    let model = context.db.model();
    let shared = |other: &&Arc<Image>| {
        other.fingerprint == image.fingerprint && other.project != image.project && other.phase != Phase::Deleting
    };
    if !model.images.values().any(|other| shared(&other)) {
        let (work, fingerprint) = (Arc::clone(context), image.fingerprint.clone());
        let _stays = context.images.stays().await;
        blocking(move || {
            work.pools.delete_image(&fingerprint)?;
            Ok(work.images.remove(&fingerprint)?)
        })
        .await?;
    }
    let (project, fingerprint) = (image.project.clone(), image.fingerprint.clone());
    context.db.write(move |tx| Ok::<_, Error>(tx.delete_image(&project, &fingerprint)?)).await
}
