//! `POST /1.0/images`: an image that a client sends, raw (unified) or as multipart (split); others are handed on.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::header::CONTENT_TYPE;
use serde_json::Map;

use super::call::{Call, Trust, blocking, parse_pairs, parse_query};
use super::error::Error;
use super::image_sources;
use super::operations::told_cancelled;
use super::response::{self, Response};
use super::wire;
use crate::db::{Feature, Seconds};
use crate::image::{Part, Upload, Writer};
use crate::multipart;
use crate::names::{AliasName, Fingerprint, ProfileName};
use crate::ops::Spec;
use crate::project;
use crate::remote::{self, Keep};

type Result<T> = std::result::Result<T, Error>;

/// What the headers of an upload say.
struct Headers {
    fingerprint: Option<Fingerprint>,
    filename: String,
    public: bool,
    properties: wire::Config,
    aliases: Vec<(AliasName, String)>,
    expires_at: Option<Seconds>,
    profiles: Option<Vec<ProfileName>>,
    secret: String,
}

impl Headers {
    /// Who asked for the image says what becomes of it, not who brings it.
    fn follow(&mut self, asked: wire::ImagesPost) -> Result<()> {
        self.public = asked.public;
        self.properties.extend(asked.properties);
        self.aliases = image_sources::aliases(asked.aliases)?;
        self.expires_at = image_sources::expires_at(&asked.expires_at)?;
        Ok(())
    }
}

fn headers(call: &Call) -> Result<Headers> {
    let text = |name: &str| text(call, name);
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
    // A query of its own: the values are the aliases, whatever their names; a name without a value is an alias itself.
    let aliases = parse_pairs(text("aliases").unwrap_or_default());
    let aliases = aliases.into_iter().map(|(name, value)| if value.is_empty() { name } else { value });
    let profiles: Vec<_> = parse_pairs(text("profiles").unwrap_or_default());
    let profiles = profiles.into_iter().map(|(_, value)| ProfileName::new(value));
    let profiles = profiles.collect::<std::result::Result<Vec<_>, _>>()?;
    let known = |name: &ProfileName| call.project().is_ok_and(|of| call.app.db.model().profile(&of, name).is_some());
    if let Some(missing) = profiles.iter().find(|name| !known(name)) {
        let reason = format!("there is no profile {:?}", missing.as_str());
        return Err(Error::Field { name: "X-LXD-profiles", reason });
    }
    Ok(Headers {
        profiles: (!profiles.is_empty()).then_some(profiles),
        secret: text("secret").unwrap_or_default().to_owned(),
        fingerprint,
        filename: text("filename").unwrap_or_default().to_owned(),
        public,
        properties: parse_query(text("properties").unwrap_or_default()),
        aliases: aliases
            .map(|name| Ok((AliasName::new(name)?, String::new())))
            .collect::<std::result::Result<_, crate::names::NameError>>()?,
        expires_at: None,
    })
}

/// Whom nobody trusts may bring the one image for which a trusted client asked for a secret; he is told nothing else. What
/// that client said of the image.
fn may_upload(call: &Call) -> Result<Option<wire::ImagesPost>> {
    if call.trust != Trust::Untrusted {
        return Ok(None);
    }
    let (fingerprint, secret) = (text(call, "fingerprint"), text(call, "secret"));
    let (fingerprint, secret) = fingerprint.zip(secret).ok_or(Error::Forbidden)?;
    let token = call.app.ops.use_token(&fingerprint.to_lowercase(), secret).map_err(|_| Error::Forbidden)?;
    told_cancelled(call, &token);
    Ok(token.to_wire().metadata.and_then(|said| serde_json::from_value(said.into()).ok()))
}

/// What one of the headers says. `X-Incus-*` are synonyms of `X-LXD-*`.
fn text<'a>(call: &'a Call, name: &str) -> Option<&'a str> {
    ["x-lxd-", "x-incus-"]
        .iter()
        .find_map(|prefix| call.headers.get(format!("{prefix}{name}")))
        .and_then(|value| value.to_str().ok())
        .filter(|text| !text.is_empty())
}

/// `POST /1.0/images`: an upload, raw (unified) or multipart (split).
pub async fn create(mut call: Call) -> Result<Response> {
    let project = call.holder(Feature::Images)?;
    let content_type = call.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    let kind = content_type.to_ascii_lowercase();
    let may_be_json = call.trust != Trust::Untrusted && !kind.starts_with("multipart/");
    if kind.starts_with("application/json") || (may_be_json && looks_like_json(&mut call).await?) {
        if call.trust == Trust::Untrusted {
            return Err(Error::Forbidden);
        }
        let body = call.json().await?;
        return from_elsewhere(call, body).await;
    }
    let asked = may_upload(&call)?;
    let mut headers = headers(&call)?;
    if let Some(asked) = asked {
        headers.follow(asked)?;
    }
    let room = project::image_room(&call.app.db.model(), &project);
    let upload = call.app.instances.context().images.incoming().await.within(room);
    let upload = if kind.starts_with("multipart/") {
        let (upload, filename) = in_parts(&mut call, upload, &content_type).await?;
        // As in LXD, a split image is called as its root is.
        headers.filename = filename.unwrap_or(headers.filename);
        upload
    } else {
        raw(&mut call, upload).await?
    };
    let spec = Spec {
        description: "Downloading image",
        // Who asked listens for what happens there, wherever the image comes to lie.
        project: call.project()?,
        resources: BTreeMap::new(),
        // By it, who brought the image may wait for the end.
        metadata: (call.trust == Trust::Untrusted)
            .then(|| Map::from_iter([("secret".to_owned(), headers.secret.clone().into())])),
        requestor: Some(call.requestor()),
        may_cancel: false,
    };
    let app = Arc::clone(&call.app);
    let requestor = call.requestor();
    let operation = app.clone().ops.task(spec, async move |handle| {
        let expected = headers.fingerprint.clone();
        let received = blocking(move || upload.finish(expected.as_ref())).await?;
        let (fingerprint, size) = (received.fingerprint.clone(), received.size);
        let keep = Keep {
            public: headers.public,
            properties: headers.properties,
            aliases: headers.aliases,
            expires_at: headers.expires_at,
            profiles: headers.profiles,
            filename: headers.filename,
            requestor: Some(requestor),
            ..Keep::default()
        };
        remote::keep(app.instances.context(), &project, received, None, keep).await?;
        handle.add_metadata("fingerprint", fingerprint.to_string().into());
        handle.add_metadata("size", size.to_string().into());
        Ok::<(), Error>(())
    });
    Ok(response::accepted(&operation))
}

/// Whether the body begins as no image does. As in LXD, nobody need say that it is JSON.
async fn looks_like_json(call: &mut Call) -> Result<bool> {
    let Some(piece) = call.body.next_chunk().await else { return Ok(false) };
    let piece = piece.map_err(Error::Body)?;
    let found = piece.trim_ascii_start().starts_with(b"{");
    call.body.put_back(piece);
    Ok(found)
}

/// An image whose bytes are not in the request.
async fn from_elsewhere(call: Call, body: wire::ImagesPost) -> Result<Response> {
    let (kind, mode) = body.source.as_ref().map_or(("", ""), |source| (source.kind.as_str(), source.mode.as_str()));
    match kind {
        // The stock client leaves the type out.
        "" if mode == "push" => image_sources::create(call, body),
        "instance" | "container" | "virtual-machine" | "snapshot" => super::image_publish::create(call, body).await,
        "image" | "url" => image_sources::create(call, body),
        other => Err(Error::Field {
            name: "source.type",
            reason: format!("{:?} is none of instance, snapshot, image, url", crate::names::shortened(other)),
        }),
    }
}

async fn raw(call: &mut Call, upload: Upload) -> Result<Upload> {
    let mut writer = Writer::new(upload);
    writer.part(Part::Unified).await?;
    while let Some(chunk) = call.body.next_chunk().await {
        writer.take(chunk.map_err(Error::Body)?).await?;
    }
    Ok(writer.end().await?)
}

/// Reads the parts `metadata` and `rootfs` (or `rootfs.img`), in this order. The second one's file name comes along.
async fn in_parts(call: &mut Call, upload: Upload, content_type: &str) -> Result<(Upload, Option<String>)> {
    let wrong = |reason: String| Error::Field { name: "multipart body", reason };
    let boundary = multipart::parse_boundary(content_type).map_err(|e| wrong(e.to_string()))?;
    let body = std::mem::replace(&mut call.body, super::body::BodyStream::empty());
    let mut parts = multipart::parts(body.into_stream(), boundary);
    let mut writer = Writer::new(upload);
    let (mut seen, mut filename) = (0, None);
    while let Some(mut part) = parts.next_field().await.map_err(|e| wrong(e.to_string()))? {
        match (part.name().unwrap_or_default(), seen) {
            ("metadata", 0) => writer.part(Part::Metadata).await?,
            ("rootfs" | "rootfs.img", 1) => writer.part(Part::Rootfs).await?,
            // Whatever a client sends beside them is nobody's business.
            (_, 2) => continue,
            (name, _) => return Err(wrong(format!("unexpected part {name:?}: send \"metadata\", then \"rootfs\""))),
        }
        seen += 1;
        filename = part.file_name().and_then(|name| name.rsplit('/').next()).map(str::to_owned);
        while let Some(chunk) = part.chunk().await.map_err(|e| wrong(e.to_string()))? {
            writer.take(chunk).await?;
        }
    }
    if seen == 2 {
        Ok((writer.end().await?, filename))
    } else {
        Err(wrong("the parts \"metadata\" and \"rootfs\" are needed".to_owned()))
    }
}
