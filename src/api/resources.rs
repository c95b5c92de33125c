//! `/1.0/resources`: the hardware of the host.

use super::call::{Call, blocking};
use super::error::Error;
use super::response::{self, Response};
use crate::sys::hardware;

/// `GET /1.0/resources`.
pub async fn get(call: Call) -> Result<Response, Error> {
    let architecture = call.app.instances.context().host.architecture;
    let found = blocking(move || Ok::<_, Error>(hardware::resources(architecture))).await?;
    Ok(response::sync(found))
}
