//! `/1.0/images` and `/1.0/images/aliases`.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue};
use serde_json::{Map, Value};

use super::call::{Call, Trust, blocking, parse_query};
use super::entry::Body;
use super::error::Error;
use super::response::{self, Response};
use super::wire;
use crate::db::{self, Alias, Image, Model, Phase, rfc3339};
use crate::image::{Part, Received, StoredImage, Upload};
use crate::names::{AliasName, Fingerprint, ProfileName, ProjectName};
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
        update_source: None,
        kind: "container".to_owned(),
        created_at: rfc3339(image.created_at),
        last_used_at: rfc3339(image.last_used_at),
        uploaded_at: rfc3339(image.uploaded_at),
    }
}

fn visible(call: &Call, image: &Image) -> bool {
    image.phase == Phase::Ready && (call.trust == Trust::Trusted || image.public)
}

/// An image by its fingerprint or a beginning that only one has. What an untrusted caller may not see is not there.
pub(super) fn by_fingerprint(model: &Model, project: &ProjectName, wanted: &str) -> Result<Arc<Image>> {
    let mut found = model.images.values().filter(|image| {
        image.project == *project && image.phase == Phase::Ready && image.fingerprint.as_str().starts_with(wanted)
    });
    match (found.next(), found.next()) {
        (Some(image), None) if !wanted.is_empty() => Ok(Arc::clone(image)),
        (Some(_), Some(_)) => Err(Error::Ambiguous { fingerprint: wanted.to_owned() }),
        (Some(_) | None, _) => Err(Error::NotFound("Image")),
    }
}

fn find(call: &Call) -> Result<(Arc<Model>, Arc<Image>)> {
    let model = call.app.db.model();
    let image = by_fingerprint(&model, &call.project()?, call.param("fingerprint"))?;
    if visible(call, &image) { Ok((model, image)) } else { Err(Error::NotFound("Image")) }
}

/// `GET /1.0/images`.
pub async fn list(call: Call) -> Result<Response> {
    let (model, project) = (call.app.db.model(), call.project()?);
    let seen = |image: &&Arc<Image>| image.project == project && visible(&call, image);
    let images = model.images.values().filter(seen);
    call.list(images, |image| format!("/1.0/images/{}", image.fingerprint), |image| to_wire(&model, image))
}

fn modifiable(image: &Image) -> (bool, &wire::Config, bool, i64, &Vec<ProfileName>) {
    (image.auto_update, &image.properties, image.public, image.expires_at, &image.profiles)
}

/// `GET /1.0/images/<fingerprint>`.
pub async fn get(call: Call) -> Result<Response> {
    let (model, image) = find(&call)?;
    Ok(response::tagged(to_wire(&model, &image), &response::etag(modifiable(&image))))
}

async fn update(call: Call, change: impl FnOnce(&Image) -> Image) -> Result<Response> {
    let (_, old) = find(&call)?;
    call.if_match(modifiable(&old))?;
    let new = change(&old);
    let url = format!("/1.0/images/{}", new.fingerprint);
    call.app.db.write(move |tx| Ok::<_, Error>(tx.put_image(new)?)).await?;
    call.lifecycle("image-updated", &url);
    Ok(response::empty())
}

/// `PUT /1.0/images/<fingerprint>`.
pub async fn put(mut call: Call) -> Result<Response> {
    let body: wire::Image = call.json().await?;
    update(call, |old| Image {
        auto_update: body.auto_update,
        properties: body.properties,
        public: body.public,
        ..old.clone()
    })
    .await
}

/// `PATCH /1.0/images/<fingerprint>`.
pub async fn patch(mut call: Call) -> Result<Response> {
    let body: Map<String, Value> = call.json().await?;
    let part: wire::Image =
        serde_json::from_value(Value::Object(body.clone())).map_err(|e| Error::Json(e.to_string()))?;
    update(call, |old| {
        let mut new = old.clone();
        new.properties.extend(part.properties);
        if body.contains_key("public") {
            new.public = part.public;
        }
        if body.contains_key("auto_update") {
            new.auto_update = part.auto_update;
        }
        new
    })
    .await
}

/// What the headers of an upload say. `X-Incus-*` are synonyms of `X-LXD-*`.
struct Headers {
    fingerprint: Option<Fingerprint>,
    filename: String,
    public: bool,
    properties: wire::Config,
    aliases: Vec<AliasName>,
}

fn headers(call: &Call) -> Result<Headers> {
    let text = |name: &str| {
        ["x-lxd-", "x-incus-"]
            .iter()
            .find_map(|prefix| call.headers.get(format!("{prefix}{name}")))
            .and_then(|value| value.to_str().ok())
            .filter(|text| !text.is_empty())
    };
    let fingerprint = match text("fingerprint") {
        None => None,
        Some(text) => Some(Fingerprint::new(text.to_lowercase())?),
    };
    let public = match text("public") {
        None => false,
        Some(text) => crate::config::parse_bool(text).ok_or_else(|| Error::Field {
            name: "X-LXD-public",
            reason: format!("{text:?} is neither true nor false"),
        })?,
    };
    let aliases = parse_query(text("aliases").unwrap_or_default());
    Ok(Headers {
        fingerprint,
        filename: text("filename").unwrap_or_default().to_owned(),
        public,
        properties: parse_query(text("properties").unwrap_or_default()),
        aliases: aliases.into_values().map(AliasName::new).collect::<std::result::Result<_, _>>()?,
    })
}

/// `POST /1.0/images`: an upload, raw (unified) or multipart (split).
pub async fn create(mut call: Call) -> Result<Response> {
    let project = call.project()?;
    let content_type = call.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    if content_type.starts_with("application/json") {
        return Err(Error::Unsupported { what: "images from a remote server, a URL or an instance".to_owned() });
    }
    let headers = headers(&call)?;
    let upload = call.app.instances.context().images.begin();
    let upload = match content_type.strip_prefix("multipart/") {
        None => raw(&mut call, upload).await?,
        Some(_) => multipart(&mut call, upload, &content_type).await?,
    };
    let mut spec = Spec {
        description: "Downloading image",
        project: project.clone(),
        resources: BTreeMap::new(),
        metadata: None,
        requestor: Some(call.requestor()),
        may_cancel: false,
    };
    spec.description = "Importing image";
    let app = Arc::clone(&call.app);
    let requestor = call.requestor();
    let operation = app.clone().ops.task(spec, async move |handle| {
        let expected = headers.fingerprint.clone();
        let received = blocking(move || upload.finish(expected.as_ref())).await?;
        let (fingerprint, size) = (received.fingerprint.clone(), received.size);
        keep(&app, &project, received, headers).await?;
        let url = format!("/1.0/images/{fingerprint}");
        app.bus.lifecycle(crate::events::lifecycle::Lifecycle {
            action: "image-created",
            source: url,
            project: &project,
            context: Map::new(),
            requestor: Some(&requestor),
        });
        handle.add_metadata("fingerprint", fingerprint.to_string().into());
        handle.add_metadata("size", size.to_string().into());
        Ok::<(), Error>(())
    });
    Ok(response::accepted(&operation))
}

async fn write(upload: Upload, bytes: Bytes) -> Result<Upload> {
    blocking(move || {
        let mut upload = upload;
        upload.write(&bytes).map(|()| upload)
    })
    .await
}

async fn raw(call: &mut Call, mut upload: Upload) -> Result<Upload> {
    upload.part(Part::Unified)?;
    while let Some(chunk) = call.body.next_chunk().await {
        upload = write(upload, chunk.map_err(Error::Body)?).await?;
    }
    Ok(upload)
}

/// Reads the parts `metadata` and `rootfs` (or `rootfs.img`), in this order.
async fn multipart(call: &mut Call, mut upload: Upload, content_type: &str) -> Result<Upload> {
    let wrong = |reason: String| Error::Field { name: "multipart body", reason };
    let boundary = multer::parse_boundary(content_type).map_err(|e| wrong(e.to_string()))?;
    let body = std::mem::replace(&mut call.body, super::entry::BodyStream::empty());
    let mut parts = multer::Multipart::new(body.into_stream(), boundary);
    let mut seen = 0;
    while let Some(mut part) = parts.next_field().await.map_err(|e| wrong(e.to_string()))? {
        match (part.name().unwrap_or_default(), seen) {
            ("metadata", 0) => upload.part(Part::Metadata)?,
            ("rootfs" | "rootfs.img", 1) => upload.part(Part::Rootfs)?,
            (name, _) => return Err(wrong(format!("unexpected part {name:?}: send \"metadata\", then \"rootfs\""))),
        }
        seen += 1;
        while let Some(chunk) = part.chunk().await.map_err(|e| wrong(e.to_string()))? {
            upload = write(upload, chunk).await?;
        }
    }
    if seen == 2 { Ok(upload) } else { Err(wrong("the parts \"metadata\" and \"rootfs\" are needed".to_owned())) }
}

/// Puts a verified image into the store and the database.
async fn keep(app: &super::app::App, project: &ProjectName, received: Received, headers: Headers) -> Result<()> {
    let metadata = &received.metadata;
    let mut properties = metadata.properties.clone();
    properties.extend(headers.properties);
    let record = Image {
        project: project.clone(),
        fingerprint: received.fingerprint.clone(),
        phase: Phase::Creating,
        filename: headers.filename,
        size: received.size,
        public: headers.public,
        auto_update: false,
        cached: false,
        architecture: metadata.architecture.clone(),
        properties,
        profiles: vec![ProfileName::new("default")?],
        created_at: metadata.creation_date,
        expires_at: metadata.expiry_date.unwrap_or(0),
        last_used_at: 0,
        uploaded_at: db::now(),
    };
    let row = record.clone();
    app.db
        .write(move |tx| {
            if tx.model().image(&row.project, &row.fingerprint).is_some() {
                return Err(Error::Exists { what: "Image with fingerprint", name: row.fingerprint.to_string() });
            }
            Ok(tx.put_image(row)?)
        })
        .await?;
    let fingerprint = record.fingerprint.clone();
    let stored = blocking(move || received.commit()).await;
    if let Err(error) = stored {
        let project = project.clone();
        app.db.write(move |tx| Ok::<_, Error>(tx.delete_image(&project, &fingerprint)?)).await?;
        return Err(error);
    }
    app.db
        .write(move |tx| {
            for name in headers.aliases {
                let project = record.project.clone();
                let target = record.fingerprint.clone();
                tx.put_alias(Alias { project, name, description: String::new(), target })?;
            }
            Ok::<_, Error>(tx.put_image(Image { phase: Phase::Ready, ..record })?)
        })
        .await
}

/// `DELETE /1.0/images/<fingerprint>`: instances made from it keep what they need.
pub async fn delete(call: Call) -> Result<Response> {
    let (_, image) = find(&call)?;
    let spec = Spec {
        description: "Deleting image",
        project: image.project.clone(),
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
pub async fn remove(app: &super::app::App, image: &Image) -> Result<()> {
    let model = app.db.model();
    let shared = model.images.values().any(|i| i.fingerprint == image.fingerprint && i.project != image.project);
    if !shared {
        let context = Arc::clone(app.instances.context());
        let fingerprint = image.fingerprint.clone();
        blocking(move || {
            context.pools.delete_image(&fingerprint)?;
            Ok::<_, Error>(context.images.remove(&fingerprint)?)
        })
        .await?;
    }
    let (project, fingerprint) = (image.project.clone(), image.fingerprint.clone());
    app.db.write(move |tx| Ok::<_, Error>(tx.delete_image(&project, &fingerprint)?)).await
}

/// `GET /1.0/images/<fingerprint>/export`: the file, or both as multipart.
pub async fn export(call: Call) -> Result<Response> {
    let (_, image) = find(&call)?;
    let store = Arc::clone(&call.app.instances.context().images);
    let fingerprint = image.fingerprint.clone();
    let stored: StoredImage = blocking(move || store.get(&fingerprint)).await?;
    let open = async |path: std::path::PathBuf| {
        let file = tokio::fs::File::open(&path).await;
        file.map_err(|error| Error::Image(crate::image::Error::Io { doing: "open", path, error }))
    };
    let meta = response::pieces(open(stored.meta_path).await?);
    let name = if image.filename.is_empty() { image.fingerprint.to_string() } else { image.filename.clone() };
    let safe: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).collect();
    let (body, content_type) = match stored.rootfs_path {
        None => (Body::Stream(Box::pin(meta)), "application/octet-stream".to_owned()),
        Some(path) => {
            let boundary = crate::ops::secret().map_err(|_| Error::Random)?;
            let part = |name: &str, file: &str| {
                let text = format!(
                    "\r\n--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{file}\"\r\nContent-Type: application/octet-stream\r\n\r\n"
                );
                futures_util::stream::once(std::future::ready(Ok::<_, io::Error>(Bytes::from(text))))
            };
            let end = Bytes::from(format!("\r\n--{boundary}--\r\n"));
            let extension = if stored.squashfs { "squashfs" } else { "tar" };
            let rootfs = format!("{}.{extension}", image.fingerprint);
            let stream = part("metadata", &format!("meta-{}.tar", image.fingerprint))
                .chain(meta)
                .chain(part("rootfs", &rootfs))
                .chain(response::pieces(open(path).await?))
                .chain(futures_util::stream::once(std::future::ready(Ok(end))));
            (Body::Stream(Box::pin(stream)), format!("multipart/form-data; boundary={boundary}"))
        }
    };
    let mut response = http::Response::new(body);
    if let Ok(value) = HeaderValue::from_str(&content_type) {
        response.headers_mut().insert(CONTENT_TYPE, value);
    }
    if let Ok(value) = HeaderValue::from_str(&format!("inline;filename={safe}")) {
        response.headers_mut().insert(CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

fn alias_to_wire(alias: &Alias) -> wire::ImageAlias {
    wire::ImageAlias {
        name: alias.name.to_string(),
        description: alias.description.clone(),
        target: Some(alias.target.to_string()),
        kind: Some("container".to_owned()),
    }
}

/// `GET /1.0/images/aliases`.
pub async fn list_aliases(call: Call) -> Result<Response> {
    let (model, project) = (call.app.db.model(), call.project()?);
    let aliases = model.aliases.values().filter(|alias| alias.project == project);
    call.list(aliases, |alias| format!("/1.0/images/aliases/{}", alias.name), |alias| alias_to_wire(alias))
}

fn find_alias(call: &Call) -> Result<Arc<Alias>> {
    let model = call.app.db.model();
    let name = call.named("name", "Image alias", AliasName::new)?;
    let alias = model.alias(&call.project()?, &name).ok_or(Error::NotFound("Image alias"))?;
    let image = model.image(&alias.project, &alias.target);
    if image.is_some_and(|image| visible(call, image)) {
        Ok(Arc::clone(alias))
    } else {
        Err(Error::NotFound("Image alias"))
    }
}

/// `GET /1.0/images/aliases/<name>`.
pub async fn get_alias(call: Call) -> Result<Response> {
    let alias = find_alias(&call)?;
    Ok(response::tagged(alias_to_wire(&alias), &response::etag((&alias.description, &alias.target))))
}

fn target(model: &Model, project: &ProjectName, wanted: Option<&str>) -> Result<Fingerprint> {
    let wanted = wanted.filter(|text| !text.is_empty());
    let wanted = wanted.ok_or_else(|| Error::Field { name: "target", reason: "it must name an image".to_owned() })?;
    Ok(by_fingerprint(model, project, wanted)?.fingerprint.clone())
}

/// `POST /1.0/images/aliases`.
pub async fn add_alias(mut call: Call) -> Result<Response> {
    let body: wire::ImageAlias = call.json().await?;
    let project = call.project()?;
    let name = AliasName::new(body.name)?;
    let alias = Alias {
        target: target(&call.app.db.model(), &project, body.target.as_deref())?,
        project,
        name: name.clone(),
        description: body.description,
    };
    call.app
        .db
        .write(move |tx| {
            if tx.model().alias(&alias.project, &alias.name).is_some() {
                return Err(Error::Exists { what: "Image alias", name: alias.name.to_string() });
            }
            Ok(tx.put_alias(alias)?)
        })
        .await?;
    let url = format!("/1.0/images/aliases/{name}");
    call.lifecycle("image-alias-created", &url);
    Ok(response::created(&url))
}

async fn update_alias(call: Call, body: wire::ImageAlias, whole: bool) -> Result<Response> {
    let old = find_alias(&call)?;
    call.if_match((&old.description, &old.target))?;
    let mut new = (*old).clone();
    if whole || body.target.is_some() {
        new.target = target(&call.app.db.model(), &old.project, body.target.as_deref())?;
    }
    if whole || !body.description.is_empty() {
        new.description = body.description;
    }
    call.app.db.write(move |tx| Ok::<_, Error>(tx.put_alias(new)?)).await?;
    call.lifecycle("image-alias-updated", &format!("/1.0/images/aliases/{}", old.name));
    Ok(response::empty())
}

/// `PUT /1.0/images/aliases/<name>`.
pub async fn put_alias(mut call: Call) -> Result<Response> {
    let body = call.json().await?;
    update_alias(call, body, true).await
}

/// `PATCH /1.0/images/aliases/<name>`.
pub async fn patch_alias(mut call: Call) -> Result<Response> {
    let body = call.json().await?;
    update_alias(call, body, false).await
}

/// `POST /1.0/images/aliases/<name>`: renames.
pub async fn rename_alias(mut call: Call) -> Result<Response> {
    let body: wire::ImageAlias = call.json().await?;
    let old = find_alias(&call)?;
    let new = Alias { name: AliasName::new(body.name)?, ..(*old).clone() };
    let url = format!("/1.0/images/aliases/{}", new.name);
    call.app
        .db
        .write(move |tx| {
            if tx.model().alias(&new.project, &new.name).is_some() {
                return Err(Error::Exists { what: "Image alias", name: new.name.to_string() });
            }
            tx.delete_alias(&old.project, &old.name)?;
            Ok(tx.put_alias(new)?)
        })
        .await?;
    call.lifecycle("image-alias-renamed", &url);
    Ok(response::created(&url))
}

/// `DELETE /1.0/images/aliases/<name>`.
pub async fn delete_alias(call: Call) -> Result<Response> {
    let alias = find_alias(&call)?;
    let url = format!("/1.0/images/aliases/{}", alias.name);
    call.app.db.write(move |tx| Ok::<_, Error>(tx.delete_alias(&alias.project, &alias.name)?)).await?;
    call.lifecycle("image-alias-deleted", &url);
    Ok(response::empty())
}
