//! `POST /1.0/images` of an instance or a snapshot of one.

use super::call::Call;
use super::error::Error;
use super::response::Response;
use super::wire;

/// Publishes what `body.source` names.
///
/// # Errors
/// With the field that is wrong.
pub(super) async fn create(_call: Call, _body: wire::ImagesPost) -> Result<Response, Error> {
    Err(Error::Unsupported { what: "images from an instance".to_owned() })
}
