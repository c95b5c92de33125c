//! `/1.0/certificates`: the trust store.

use std::sync::Arc;

use super::call::{Call, Trust, blocking};
use super::entry::Peer;
use super::error::Error;
use super::response::{self, Response};
use super::wire;
use crate::auth::{ClientCertificate, password};
use crate::db::Certificate;
use crate::names::Fingerprint;

type Result<T> = std::result::Result<T, Error>;

fn to_wire(record: &Certificate) -> wire::Certificate {
    wire::Certificate {
        name: record.name.clone(),
        kind: record.kind.clone(),
        restricted: record.restricted,
        projects: record.projects.iter().map(ToString::to_string).collect(),
        certificate: record.pem.clone(),
        fingerprint: record.fingerprint.to_string(),
    }
}

/// `GET /1.0/certificates`.
pub async fn list(call: Call) -> Result<Response> {
    let model = call.app.db.model();
    let url = |certificate: &&Arc<Certificate>| format!("/1.0/certificates/{}", certificate.fingerprint);
    call.list(model.certificates.values(), url, |certificate| to_wire(certificate))
}

/// A certificate by its fingerprint or a beginning of it that only one has.
fn find(call: &Call) -> Result<Arc<Certificate>> {
    let wanted = call.param("fingerprint");
    let model = call.app.db.model();
    let mut found = model.certificates.values().filter(|c| c.fingerprint.as_str().starts_with(wanted));
    match (found.next(), found.next()) {
        (Some(certificate), None) => Ok(Arc::clone(certificate)),
        (Some(_), Some(_)) => Err(Error::Field {
            name: "fingerprint",
            reason: format!("more than one certificate begins with {wanted:?}"),
        }),
        (None, _) => Err(Error::NotFound("Certificate")),
    }
}

/// `GET /1.0/certificates/<fingerprint>`.
pub async fn get(call: Call) -> Result<Response> {
    let certificate = find(&call)?;
    let etag = response::etag((&certificate.name, &certificate.kind, certificate.restricted));
    Ok(response::tagged(to_wire(&certificate), &etag))
}

/// `POST /1.0/certificates`: by a trusted caller, or by anyone who knows the trust password.
pub async fn add(mut call: Call) -> Result<Response> {
    let body: wire::CertificatesPost = call.json().await?;
    if body.token {
        return Err(Error::Unsupported { what: "certificate tokens; use core.trust_password".to_owned() });
    }
    if !matches!(body.kind.as_str(), "" | "client") {
        return Err(Error::Field { name: "type", reason: format!("{:?} is not supported; use \"client\"", body.kind) });
    }
    if body.restricted {
        let reason = "restricted certificates are not supported by this version".to_owned();
        return Err(Error::Field { name: "restricted", reason });
    }
    if call.trust == Trust::Untrusted {
        check_password(&call, body.password).await?;
    }
    let certificate = match (body.certificate.as_str(), &call.peer) {
        ("", Peer::Tls { certificate: Some(certificate), .. }) => (**certificate).clone(),
        ("", _) => {
            let reason = "it is missing, and the connection brings no certificate either".to_owned();
            return Err(Error::Field { name: "certificate", reason });
        }
        (text, _) => ClientCertificate::parse(text)?,
    };
    let name = match (body.name.as_str(), &call.peer) {
        ("", Peer::Tls { address, .. }) => address.ip().to_string(),
        (name, _) => name.to_owned(),
    };
    let fingerprint = certificate.fingerprint.clone();
    let record = Certificate {
        fingerprint: certificate.fingerprint,
        kind: "client".to_owned(),
        name,
        restricted: false,
        projects: Vec::new(),
        pem: certificate.pem,
    };
    call.app
        .db
        .write(move |tx| {
            if tx.model().certificates.contains_key(&record.fingerprint) {
                return Err(Error::Trusted);
            }
            Ok(tx.put_certificate(record)?)
        })
        .await?;
    let url = format!("/1.0/certificates/{fingerprint}");
    call.lifecycle("certificate-created", &url);
    Ok(response::created(&url))
}

async fn check_password(call: &Call, given: String) -> Result<()> {
    let Peer::Tls { address, .. } = &call.peer else { return Err(Error::Forbidden) };
    let stored = call.app.db.model().config.get("core.trust_password").filter(|hash| !hash.is_empty()).cloned();
    let Some(stored) = stored else { return Err(Error::Forbidden) };
    if !call.app.limiter.may_try(address.ip()) {
        return Err(Error::TooManyTries);
    }
    if !blocking(move || Ok::<_, Error>(password::verify(&given, &stored))).await? {
        return Err(Error::Forbidden);
    }
    call.app.limiter.succeeded(address.ip());
    Ok(())
}

/// `DELETE /1.0/certificates/<fingerprint>`.
pub async fn delete(call: Call) -> Result<Response> {
    let fingerprint: Fingerprint = find(&call)?.fingerprint.clone();
    let url = format!("/1.0/certificates/{fingerprint}");
    call.app
        .db
        .write(move |tx| {
            tx.model().certificates.get(&fingerprint).ok_or(Error::NotFound("Certificate"))?;
            Ok::<_, Error>(tx.delete_certificate(&fingerprint)?)
        })
        .await?;
    call.lifecycle("certificate-deleted", &url);
    Ok(response::empty())
}
