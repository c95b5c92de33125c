//! `/1.0/images`.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};

use super::app::App;
use super::call::{Call, Trust, blocking};
use super::entry::Body;
use super::error::Error;
use super::operations::told_cancelled;
use super::response::{self, Response};
use super::wire;
use crate::db::{self, Feature, Image, Model, Phase, rfc3339};
use crate::image::StoredImage;
use crate::names::{Fingerprint, ProfileName, ProjectName};
use crate::ops::Spec;

type Result<T> = std::result::Result<T, Error>;

fn to_wire(model: &Model, image: &Image) -> wire::Image {
    let aliases = model.aliases.values().filter(|a| a.project == image.project && a.target == image.fingerprint);
    wire::Image {
        auto_update: image.auto_update,
        properties: image.properties.clone(),
        public: image.public,
        expires_at: rfc3339(image.expires_at),
        profiles: image.profiles.iter().map(ToString::to_string).collect(),
        aliases: aliases
            .map(|a| wire::ImageAlias {
                name: a.name.to_string(),
                description: a.description.clone(),
                target: None,
                kind: None,
            })
            .collect(),
        architecture: image.architecture.clone(),
        cached: image.cached,
        filename: image.filename.clone(),
        fingerprint: image.fingerprint.to_string(),
        size: image.size,
        update_source: image.update_source.clone(),
        kind: "container".to_owned(),
        created_at: rfc3339(image.created_at),
        last_used_at: rfc3339(image.last_used_at),
        uploaded_at: rfc3339(image.uploaded_at),
    }
}

/// Whether the caller may know of an image.
pub(super) fn visible(call: &Call, image: &Image) -> bool {
    image.phase == Phase::Ready && (call.trust != Trust::Untrusted || image.public)
}

/// An image by its fingerprint or a beginning that only one has.
pub(super) fn by_fingerprint(model: &Model, project: &ProjectName, wanted: &str) -> Result<Arc<Image>> {
    among(model, project, wanted, |image| image.phase == Phase::Ready)
}

/// The image that a project sees whose fingerprint begins so, among those that may be seen.
///
/// # Errors
/// When there is none, or more than one.
pub(crate) fn among(
    model: &Model,
    project: &ProjectName,
    wanted: &str,
    visible: impl Fn(&Image) -> bool,
) -> Result<Arc<Image>> {
    // Clients hand on what a person typed.
    let wanted = wanted.to_ascii_lowercase();
    let project = model.holder(project, Feature::Images);
    let mut found = model
        .images
        .values()
        .filter(|image| image.project == project && visible(image) && image.fingerprint.as_str().starts_with(&wanted));
    match (found.next(), found.next()) {
        (Some(image), None) if !wanted.is_empty() => Ok(Arc::clone(image)),
        (Some(_), Some(_)) => Err(Error::Ambiguous { fingerprint: wanted }),
        (Some(_) | None, _) => Err(Error::NotFound("Image")),
    }
}

pub(super) fn find(call: &Call) -> Result<(Arc<Model>, Arc<Image>)> {
    let model = call.app.db.model();
    // What the caller may not see is not there, not even as another image that begins alike.
    let (project, wanted) = (call.project()?, call.param("fingerprint"));
    match (among(&model, &project, wanted, |image| visible(call, image)), call.query("secret")) {
        (Err(error), Some(secret)) if call.trust == Trust::Untrusted => {
            let image = among(&model, &project, wanted, |image| image.phase == Phase::Ready).map_err(|_| error)?;
            // Whoever knows it was given it for this image by somebody who may read it.
            let token = call.app.ops.use_token(image.fingerprint.as_str(), secret);
            let token = token.map_err(|_| Error::NotFound("Image"))?;
            // As LXD tells of each use.
            told_cancelled(call, &token);
            Ok((model, image))
        }
        (found, _) => found.map(|image| (model, image)),
    }
}

/// `GET /1.0/images`.
pub async fn list(call: Call) -> Result<Response> {
    let (model, project) = (call.app.db.model(), call.scope_of(Feature::Images)?);
    let of_it = |image: &Image| project.holds(&image.project);
    let images = model.images.values().filter(|image| of_it(image) && visible(&call, image));
    let url = |image: &&Arc<Image>| image.project.url(format_args!("/1.0/images/{}", image.fingerprint));
    call.list(images, url, |image| to_wire(&model, image))
}

fn modifiable(image: &Image) -> (bool, &wire::Config, bool, i64, &Vec<ProfileName>) {
    (image.auto_update, &image.properties, image.public, image.expires_at, &image.profiles)
}

/// `GET /1.0/images/<fingerprint>`.
pub async fn get(call: Call) -> Result<Response> {
    let (model, image) = find(&call)?;
    Ok(response::tagged(to_wire(&model, &image), &response::etag(modifiable(&image))))
}

async fn update(call: Call, change: impl FnOnce(&Image) -> Image + Send + 'static) -> Result<Response> {
    let (_, old) = find(&call)?;
    let wanted = call.if_match();
    let url = format!("/1.0/images/{}", old.fingerprint);
    call.app
        .db
        .write(move |tx| {
            let old = tx.model().image(&old.project, &old.fingerprint).cloned().ok_or(Error::NotFound("Image"))?;
            wanted.check(modifiable(&old))?;
            Ok::<_, Error>(tx.put_image(change(&old))?)
        })
        .await?;
    call.lifecycle("image-updated", &url);
    Ok(response::empty())
}

/// A time of the API; the empty text and anything up to 1970 is never.
pub(super) fn expiry(text: &str) -> Result<db::Seconds> {
    if text.is_empty() {
        return Ok(0);
    }
    let wrong = || {
        let reason = format!("{text:?} is not a time: write it as 2030-12-31T00:00:00Z");
        Error::Field { name: "expires_at", reason }
    };
    db::seconds(text).map(|at| at.max(0)).ok_or_else(wrong)
}

/// Go's zero time, which the stock client sends for a time that nobody set; or nothing at all.
fn is_zero_time(text: &str) -> bool {
    text.is_empty() || text.starts_with("0001-01-01T00:00:00")
}

pub(super) fn profiles(model: &Model, project: &ProjectName, names: Vec<String>) -> Result<Vec<ProfileName>> {
    let names = names.into_iter().map(ProfileName::new).collect::<std::result::Result<Vec<_>, _>>()?;
    match names.iter().find(|name| model.profile(project, name).is_none()) {
        Some(missing) => {
            Err(Error::Field { name: "profiles", reason: format!("there is no profile {:?}", missing.as_str()) })
        }
        None => Ok(names),
    }
}

/// `PUT /1.0/images/<fingerprint>`.
pub async fn put(mut call: Call) -> Result<Response> {
    let (body, named): (wire::Image, _) = call.json_part().await?;
    let expires_at = expiry(&body.expires_at)?;
    let profiles = profiles(&call.app.db.model(), &call.project()?, body.profiles)?;
    // As in LXD, profiles that are not named and a time that is none stay as they were.
    update(call, move |old| Image {
        auto_update: body.auto_update,
        properties: body.properties,
        public: body.public,
        expires_at: if is_zero_time(&body.expires_at) { old.expires_at } else { expires_at },
        // Whoever edits an image sends what was shown.
        is_expiry_set: old.is_expiry_set || !is_zero_time(&body.expires_at) && expires_at != old.expires_at,
        profiles: if named.has("profiles") { profiles } else { old.profiles.clone() },
        ..old.clone()
    })
    .await
}

/// `PATCH /1.0/images/<fingerprint>`: only what the body names; properties one by one.
pub async fn patch(mut call: Call) -> Result<Response> {
    let (part, named): (wire::Image, _) = call.json_part().await?;
    let expires_at = expiry(&part.expires_at)?;
    let profiles = profiles(&call.app.db.model(), &call.project()?, part.profiles)?;
    update(call, move |old| {
        let mut new = old.clone();
        new.properties.extend(part.properties);
        if named.has("public") {
            new.public = part.public;
        }
        if named.has("auto_update") {
            new.auto_update = part.auto_update;
        }
        if named.has("expires_at") {
            (new.expires_at, new.is_expiry_set) = (expires_at, true);
        }
        if named.has("profiles") {
            new.profiles = profiles;
        }
        new
    })
    .await
}

/// `DELETE /1.0/images/<fingerprint>`: instances made from it keep what they need.
pub async fn delete(call: Call) -> Result<Response> {
    let (_, image) = find(&call)?;
    let spec = Spec {
        description: "Deleting image",
        project: call.project()?,
        resources: [("images".to_owned(), vec![format!("/1.0/images/{}", image.fingerprint)])].into(),
        metadata: None,
        requestor: Some(call.requestor()),
        may_cancel: false,
    };
    let app = Arc::clone(&call.app);
    let operation = app.clone().ops.task(spec, async move |_| {
        let record = Image { phase: Phase::Deleting, ..(*image).clone() };
        app.db
            .write(move |tx| {
                if tx.model().image(&record.project, &record.fingerprint).is_none() {
                    return Err(Error::NotFound("Image"));
                }
                Ok(tx.put_image(record)?)
            })
            .await?;
        remove(&app, &image).await?;
        call.lifecycle("image-deleted", &format!("/1.0/images/{}", image.fingerprint));
        Ok::<(), Error>(())
    });
    Ok(response::accepted(&operation))
}

/// Removes files and row of an image in phase `deleting` or `creating`.
///
/// # Errors
/// When they cannot be removed; the row stays.
pub async fn remove(app: &super::app::App, image: &Image) -> Result<()> {
    Ok(crate::remote::remove(app.instances.context(), image).await?)
}

/// A file to send: its bytes and their number.
async fn file(path: std::path::PathBuf) -> Result<(impl Stream<Item = io::Result<Bytes>> + Send + Sync, u64)> {
    let open = async {
        let file = tokio::fs::File::open(&path).await?;
        let length = file.metadata().await?.len();
        Ok((response::pieces(file), length))
    };
    open.await.map_err(|error| Error::Image(crate::image::Error::Io { doing: "open", path, error }))
}

/// `GET /1.0/images/<fingerprint>/export`: the file, or both as multipart. The names tell what the files are.
pub async fn export(call: Call) -> Result<Response> {
    let (_, image) = find(&call)?;
    let response = file_of(&call.app, &image).await?;
    call.lifecycle("image-retrieved", &format!("/1.0/images/{}", image.fingerprint));
    Ok(response)
}

/// What stands between the files of an image. Always the same, so that a download that broke can be gone on with; and in none of the
/// files, for the fingerprint that it is made of is theirs.
fn boundary(fingerprint: &Fingerprint) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, format!("boundary {fingerprint}").as_bytes()))
}

/// The files of an image as an answer.
///
/// # Errors
/// When they cannot be read.
pub(crate) async fn file_of(app: &App, image: &Image) -> Result<Response> {
    let store = Arc::clone(&app.instances.context().images);
    let fingerprint = image.fingerprint.clone();
    let (stored, names): (StoredImage, _) = blocking(move || {
        let stored = store.get(&fingerprint)?;
        let names = stored.file_names()?;
        Ok::<_, crate::image::Error>((stored, names))
    })
    .await?;
    let (meta, mut length) = file(stored.meta_path).await?;
    let (body, content_type) = match (stored.rootfs_path, names.1) {
        (Some(path), Some(rootfs_name)) => {
            let boundary = boundary(&image.fingerprint);
            let head = |name: &str, file: &str| {
                let disposition = format!("Content-Disposition: form-data; name=\"{name}\"; filename=\"{file}\"");
                format!("--{boundary}\r\n{disposition}\r\nContent-Type: application/octet-stream\r\n\r\n")
            };
            let texts = [
                head("metadata", &names.0),
                format!("\r\n{}", head("rootfs", &rootfs_name)),
                format!("\r\n--{boundary}--\r\n"),
            ];
            let (rootfs, rootfs_length) = file(path).await?;
            length += rootfs_length + texts.iter().map(|text| text.len() as u64).sum::<u64>();
            let [first, second, end] =
                texts.map(|text| futures_util::stream::once(std::future::ready(Ok::<_, io::Error>(Bytes::from(text)))));
            let stream = first.chain(meta).chain(second).chain(rootfs).chain(end);
            (Body::Stream(Box::pin(stream)), format!("multipart/form-data; boundary={boundary}"))
        }
        (Some(_) | None, _) => (Body::Stream(Box::pin(meta)), "application/octet-stream".to_owned()),
    };
    let mut response = http::Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    if let Ok(value) = HeaderValue::from_str(&content_type) {
        headers.insert(CONTENT_TYPE, value);
    }
    if content_type.starts_with("application/")
        && let Ok(value) = HeaderValue::from_str(&format!("inline;filename={}", names.0))
    {
        headers.insert(CONTENT_DISPOSITION, value);
    }
    Ok(response)
}
