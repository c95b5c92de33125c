//! `/1.0/instances/<name>/metadata` and `…/metadata/templates`: what the image says about an instance, to be changed.

use http::header::{CONTENT_TYPE, HeaderValue};

use super::call::Call;
use super::entry::Body;
use super::error::Error;
use super::response::{self, Response};
use super::wire::ImageMetadata;
use crate::instance::{MAX_TEMPLATE, TemplateName};

type Result<T> = std::result::Result<T, Error>;

async fn read(call: &Call) -> Result<ImageMetadata> {
    Ok(call.app.instances.with_metadata(&call.instance_key()?, |place| place.read()).await?)
}

/// Changes it. A file that cannot be read is handed over as the error that it is.
async fn update(
    call: &Call,
    change: impl FnOnce(Result<ImageMetadata>) -> Result<ImageMetadata> + Send + 'static,
) -> Result<Response> {
    let key = call.instance_key()?;
    call.app.instances.with_metadata(&key, move |place| place.change(|old| change(old.map_err(Error::from)))).await?;
    call.lifecycle("instance-metadata-updated", &format!("/1.0/instances/{}/metadata", key.name));
    Ok(response::empty())
}

/// `GET /1.0/instances/<name>/metadata`.
pub async fn get(call: Call) -> Result<Response> {
    let metadata = read(&call).await?;
    let etag = response::etag(&metadata);
    call.lifecycle("instance-metadata-retrieved", &format!("/1.0/instances/{}/metadata", call.instance_key()?.name));
    Ok(response::tagged(metadata, &etag))
}

/// `PUT /1.0/instances/<name>/metadata`: replaces it. A file that cannot be read is replaced, too.
pub async fn put(mut call: Call) -> Result<Response> {
    let new: ImageMetadata = call.json().await?;
    let wanted = call.if_match();
    update(&call, move |old| {
        if let Ok(old) = old {
            wanted.check(&old)?;
        }
        Ok(new)
    })
    .await
}

/// `PATCH /1.0/instances/<name>/metadata`: what the body names; properties and templates one by one.
pub async fn patch(mut call: Call) -> Result<Response> {
    let (part, named): (ImageMetadata, _) = call.json_part().await?;
    let wanted = call.if_match();
    update(&call, move |old| {
        let mut metadata = old?;
        wanted.check(&metadata)?;
        if named.has("architecture") {
            metadata.architecture = part.architecture;
        }
        if named.has("creation_date") {
            metadata.creation_date = part.creation_date;
        }
        if named.has("expiry_date") {
            metadata.expiry_date = part.expiry_date;
        }
        metadata.properties.extend(part.properties);
        metadata.templates.extend(part.templates);
        Ok(metadata)
    })
    .await
}

fn template_name(call: &Call) -> Result<TemplateName> {
    let name = call.query("path").ok_or(Error::Query { name: "path", expected: "the name of a template" })?;
    TemplateName::parse(name).ok_or(Error::Query { name: "path", expected: "a file name without a slash" })
}

/// Tells everyone what was done to the template that a call names.
fn tell(call: &Call, action: &'static str) -> Result<()> {
    let url = format!("/1.0/instances/{}/metadata/templates", call.instance_key()?.name);
    call.lifecycle_with(action, &url, &[("path", template_name(call)?.as_str().into())]);
    Ok(())
}

/// `GET /1.0/instances/<name>/metadata/templates`: the names; with `?path=` one template itself.
pub async fn get_templates(call: Call) -> Result<Response> {
    let key = call.instance_key()?;
    if call.query("path").is_none() {
        let names = call.app.instances.with_metadata(&key, |place| place.templates()).await?;
        return Ok(response::sync(names.iter().map(TemplateName::as_str).collect::<Vec<_>>()));
    }
    let name = template_name(&call)?;
    let file = call.app.instances.with_metadata(&key, move |place| place.open_template(&name)).await?;
    tell(&call, "instance-metadata-template-retrieved")?;
    let mut response = http::Response::new(Body::Stream(Box::pin(response::pieces(tokio::fs::File::from_std(file)))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

/// `POST /1.0/instances/<name>/metadata/templates?path=`: adds or replaces one.
pub async fn post_template(mut call: Call) -> Result<Response> {
    let (key, name) = (call.instance_key()?, template_name(&call)?);
    let body = std::mem::replace(&mut call.body, super::body::BodyStream::empty());
    let text = body.read_limited(MAX_TEMPLATE).await.map_err(Error::Body)?;
    call.app.instances.with_metadata(&key, move |place| place.write_template(&name, &text)).await?;
    tell(&call, "instance-metadata-template-created")?;
    Ok(response::empty())
}

/// `DELETE /1.0/instances/<name>/metadata/templates?path=`.
pub async fn delete_template(call: Call) -> Result<Response> {
    let (key, name) = (call.instance_key()?, template_name(&call)?);
    call.app.instances.with_metadata(&key, move |place| place.delete_template(&name)).await?;
    tell(&call, "instance-metadata-template-deleted")?;
    Ok(response::empty())
}
