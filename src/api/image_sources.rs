//! Images from other servers and to them: `POST /1.0/images` with a source, `…/refresh`, `…/secret`, `POST …/export`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::call::Call;
use super::error::Error;
use super::images::find;
use super::response::{self, Response};
use super::wire;
use crate::db::{self, Feature, Image, Model};
use crate::names::{AliasName, Fingerprint, ProfileName, ProjectName};
use crate::ops::{Handle, Spec};
use crate::remote::{self, Asked, Keep, Progress, Push, Source};

type Result<T> = std::result::Result<T, Error>;

fn spec(call: &Call, description: &'static str, project: &ProjectName, images: &[&str]) -> Spec {
    let urls: Vec<String> = images.iter().map(|fingerprint| format!("/1.0/images/{fingerprint}")).collect();
    Spec {
        description,
        // Who asked listens for what happens in the project that was named, wherever its images lie.
        project: call.project().unwrap_or_else(|_| project.clone()),
        resources: if urls.is_empty() { BTreeMap::new() } else { [("images".to_owned(), urls)].into() },
        metadata: None,
        requestor: Some(call.requestor()),
        may_cancel: false,
    }
}

/// Tells the operation how far a download is.
pub(super) fn telling(handle: &Handle) -> impl Fn(&Progress) + Send + Sync + '_ {
    |progress| handle.extend_metadata(progress.to_metadata())
}

pub(super) fn aliases(asked: Vec<wire::ImageAlias>) -> Result<Vec<(AliasName, String)>> {
    let pair = |alias: wire::ImageAlias| Ok((AliasName::new(alias.name)?, alias.description));
    asked.into_iter().map(pair).collect()
}

fn profiles(model: &Model, project: &ProjectName, names: Option<Vec<String>>) -> Result<Option<Vec<ProfileName>>> {
    let Some(names) = names.filter(|names| !names.is_empty()) else { return Ok(None) };
    let names = names.into_iter().map(ProfileName::new).collect::<std::result::Result<Vec<_>, _>>()?;
    match names.iter().find(|name| model.profile(project, name).is_none()) {
        Some(missing) => {
            Err(Error::Field { name: "profiles", reason: format!("there is no profile {:?}", missing.as_str()) })
        }
        None => Ok(Some(names)),
    }
}

/// `POST /1.0/images` of an image of another server, or one that somebody else is to bring.
///
/// # Errors
/// With the field that is wrong.
pub(super) fn create(call: Call, body: wire::ImagesPost) -> Result<Response> {
    let asked = body.source.clone().unwrap_or_default();
    match (asked.kind.as_str(), asked.mode.as_str()) {
        (_, "push") => expect(&call, &asked, &body),
        ("url", _) | (_, "" | "pull") => pull(call, &asked, body),
        (_, mode) => {
            let reason = format!("the mode {:?} is not known: use \"pull\" or \"push\"", crate::names::shortened(mode));
            Err(Error::Field { name: "source", reason })
        }
    }
}

fn pull(call: Call, asked: &wire::ImageSource, body: wire::ImagesPost) -> Result<Response> {
    let source = if asked.kind == "url" {
        let url = Asked { server: &asked.url, protocol: "direct", certificate: &asked.certificate, ..Asked::default() };
        if asked.url.trim().contains(' ') || asked.url.is_empty() {
            return Err(Error::Field { name: "source", reason: "its field \"url\" must be one address".to_owned() });
        }
        Source::parse(url)?
    } else {
        Source::parse(Asked {
            server: &asked.server,
            protocol: &asked.protocol,
            certificate: &asked.certificate,
            secret: &asked.secret,
            project: &asked.project,
            alias: &asked.alias,
            fingerprint: &asked.fingerprint,
            image_type: &asked.image_type,
        })?
    };
    let (project, model) = (call.holder(Feature::Images)?, call.app.db.model());
    let expires_at = expires_at(&body.expires_at)?;
    let keep = Keep {
        public: body.public,
        auto_update: body.auto_update,
        cached: false,
        properties: body.properties,
        aliases: aliases(body.aliases)?,
        profiles: profiles(&model, &call.project()?, body.profiles)?,
        expires_at,
        filename: body.filename,
        // As in LXD: what has no name there has nothing newer to follow.
        origin: Some(source.origin(source.alias_or(&asked.alias))).filter(remote::can_follow),
        replaces: None,
        requestor: Some(call.requestor()),
    };
    let spec = Spec { may_cancel: true, ..spec(&call, "Downloading image", &project, &[]) };
    let app = Arc::clone(&call.app);
    let operation = app.clone().ops.task(spec, async move |handle| {
        let (image, _hold) = app.remotes.load(&project, &source, &keep, false, &telling(&handle)).await?;
        handle.set_metadata(result(&image));
        Ok::<(), remote::Error>(())
    });
    Ok(response::accepted(&operation))
}

/// What an operation says of the image that it brought.
fn result(image: &Image) -> Map<String, Value> {
    Map::from_iter([
        ("fingerprint".to_owned(), image.fingerprint.to_string().into()),
        ("size".to_owned(), image.size.to_string().into()),
    ])
}

/// When an image is to go. Clients send Go's zero time for never.
pub(super) fn expires_at(text: &str) -> Result<Option<db::Seconds>> {
    if text.is_empty() || text.starts_with("0001-01-01T00:00:00") {
        return Ok(None);
    }
    let at = db::seconds(text).map(|at| at.max(0)).ok_or_else(|| {
        let reason = format!("{:?} is not a time: write it as 2030-12-31T00:00:00Z", crate::names::shortened(text));
        Error::Field { name: "expires_at", reason }
    })?;
    Ok(Some(at))
}

/// `mode: push`: somebody will bring this image, and gets a secret for that. What is said of the image here counts when it
/// comes: see [`image_upload`](super::image_upload).
fn expect(call: &Call, asked: &wire::ImageSource, body: &wire::ImagesPost) -> Result<Response> {
    let fingerprint = Fingerprint::new(asked.fingerprint.to_ascii_lowercase())?;
    let project = call.holder(Feature::Images)?;
    (_, _) = (expires_at(&body.expires_at)?, aliases(body.aliases.clone())?);
    let pair = |alias: &wire::ImageAlias| json!({"name": alias.name, "description": alias.description});
    let names: Value = body.aliases.iter().map(pair).collect();
    let metadata = Map::from_iter([
        ("aliases".to_owned(), names),
        (
            "expires_at".to_owned(),
            if body.expires_at.is_empty() { "0001-01-01T00:00:00Z" } else { &body.expires_at }.into(),
        ),
        ("properties".to_owned(), json!(body.properties)),
        ("public".to_owned(), body.public.into()),
    ]);
    let spec =
        Spec { metadata: Some(metadata), ..spec(call, "Image download token", &project, &[fingerprint.as_str()]) };
    let operation = call.app.ops.token(spec).map_err(|_| Error::Random)?;
    call.lifecycle("image-secret-created", &format!("/1.0/images/{fingerprint}"));
    Ok(response::accepted(&operation))
}

/// `POST /1.0/images/<fingerprint>/secret`: whoever knows it may read the image, once.
pub async fn secret(call: Call) -> Result<Response> {
    let (_, image) = find(&call)?;
    let spec = spec(&call, "Image download token", &image.project, &[image.fingerprint.as_str()]);
    let operation = call.app.ops.token(spec).map_err(|_| Error::Random)?;
    call.lifecycle("image-secret-created", &format!("/1.0/images/{}", image.fingerprint));
    Ok(response::accepted(&operation))
}

/// `POST /1.0/images/<fingerprint>/refresh`: the newer one, if its server has one.
pub async fn refresh(call: Call) -> Result<Response> {
    let (_, image) = find(&call)?;
    if !image.update_source.as_ref().is_some_and(remote::can_follow) {
        return Err(remote::Error::NoOrigin { fingerprint: image.fingerprint.clone() }.into());
    }
    let spec =
        Spec { may_cancel: true, ..spec(&call, "Refreshing image", &image.project, &[image.fingerprint.as_str()]) };
    let (app, requestor) = (Arc::clone(&call.app), call.requestor());
    let operation = app.clone().ops.task(spec, async move |handle| {
        let is_newer = app.remotes.refresh(&image, Some(requestor), &telling(&handle)).await?;
        handle.add_metadata("refreshed", is_newer.into());
        if is_newer {
            call.lifecycle("image-refreshed", &format!("/1.0/images/{}", image.fingerprint));
        }
        Ok::<(), remote::Error>(())
    });
    Ok(response::accepted(&operation))
}

/// `POST /1.0/images/<fingerprint>/export`: sends it to another server.
pub async fn push(mut call: Call) -> Result<Response> {
    let body: wire::ImageExportPost = call.json().await?;
    let (_, image) = find(&call)?;
    let push = Push {
        target: body.target,
        certificate: body.certificate,
        secret: body.secret,
        project: body.project,
        aliases: body.aliases.into_iter().map(|alias| alias.name).collect(),
        profiles: body.profiles,
    };
    push.source()?;
    let spec =
        Spec { may_cancel: true, ..spec(&call, "Exporting image", &image.project, &[image.fingerprint.as_str()]) };
    let app = Arc::clone(&call.app);
    let operation = app.clone().ops.task(spec, async move |_| {
        app.remotes.push(&image, &push).await?;
        let url = format!("/1.0/images/{}", image.fingerprint);
        call.lifecycle_with("image-retrieved", &url, &[("target", push.target.as_str().into())]);
        Ok::<(), remote::Error>(())
    });
    Ok(response::accepted(&operation))
}
