//! `/1.0/certificates`: the trust store.

use std::sync::Arc;

use super::call::{Call, Trust, blocking};
use super::entry::Peer;
use super::error::Error;
use super::response::{self, Response};
use super::trust_tokens::{self, Presented};
use super::wire;
use crate::auth::{ClientCertificate, password};
use crate::db::{Certificate, CertificateKind, Model};
use crate::names::{Fingerprint, ProjectName};

type Result<T> = std::result::Result<T, Error>;

fn to_wire(record: &Certificate) -> wire::Certificate {
    wire::Certificate {
        name: record.name.clone(),
        kind: record.kind.as_str().to_owned(),
        restricted: record.restricted,
        projects: record.projects.iter().map(ToString::to_string).collect(),
        certificate: record.pem.clone(),
        fingerprint: record.fingerprint.to_string(),
    }
}

/// The modifiable part, for the ETag.
fn modifiable(record: &Certificate) -> (&String, &str, bool, &Vec<ProjectName>, &Fingerprint) {
    (&record.name, record.kind.as_str(), record.restricted, &record.projects, &record.fingerprint)
}

fn url(fingerprint: &Fingerprint) -> String {
    format!("/1.0/certificates/{fingerprint}")
}

/// Whether it is the certificate that the caller shows.
fn is_own(call: &Call, fingerprint: &Fingerprint) -> bool {
    match &call.peer {
        Peer::Tls { certificate: Some(own), .. } => own.fingerprint == *fingerprint,
        Peer::Tls { certificate: None, .. } | Peer::Unix { .. } => false,
    }
}

/// The certificates that the caller may see: a restricted one sees its own.
fn visible<'a>(call: &'a Call, model: &'a Model) -> impl Iterator<Item = &'a Arc<Certificate>> {
    let all = call.trust.sees_all();
    model.certificates.values().filter(move |record| all || is_own(call, &record.fingerprint))
}

/// `GET /1.0/certificates`.
pub async fn list(call: Call) -> Result<Response> {
    let model = call.app.db.model();
    call.list(visible(&call, &model), |record| url(&record.fingerprint), |record| to_wire(record))
}

/// A certificate by its fingerprint or a beginning of it that only one has.
fn find(call: &Call) -> Result<Arc<Certificate>> {
    let wanted = call.param("fingerprint");
    let model = call.app.db.model();
    let mut found = visible(call, &model).filter(|c| c.fingerprint.as_str().starts_with(wanted));
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
    Ok(response::tagged(to_wire(&certificate), &response::etag(modifiable(&certificate))))
}

/// `POST /1.0/certificates`: by a trusted caller, or by anyone who knows the trust password or has a token.
pub async fn add(mut call: Call) -> Result<Response> {
    let body: wire::CertificatesPost = call.json().await?;
    match call.trust {
        Trust::Trusted if body.token => return trust_tokens::create(&call, body).await,
        Trust::Trusted => {}
        Trust::Restricted(_) if body.token || !body.certificate.is_empty() => return Err(Error::Forbidden),
        Trust::Restricted(_) => return Err(Error::AlreadyTrusted),
        // Stopped at the door.
        Trust::ReadOnly => return Err(Error::ReadOnly),
        Trust::Untrusted if body.token => return Err(Error::Forbidden),
        Trust::Untrusted => {
            let secret = if body.trust_token.is_empty() { &body.password } else { &body.trust_token };
            match Presented::read(secret) {
                Some(token) => {
                    let certificate = given(&call, &body.certificate)?;
                    let fingerprint = token.redeem(&call, certificate).await?;
                    return Ok(told_created(&call, &fingerprint));
                }
                None => check_password(&call, body.password.clone()).await?,
            }
        }
    }
    let kind = match body.kind.as_str() {
        "" => CertificateKind::Client,
        text => CertificateKind::parse(text).ok_or_else(|| Error::Field {
            name: "type",
            reason: format!("Invalid certificate type {:?}: use client or metrics", crate::names::shortened(text)),
        })?,
    };
    let certificate = given(&call, &body.certificate)?;
    let name = match (body.name.as_str(), &certificate.common_name, &call.peer) {
        ("", Some(name), _) => name.clone(),
        ("", None, Peer::Tls { address, .. }) => address.ip().to_string(),
        (name, ..) => name.to_owned(),
    };
    let record = Certificate {
        fingerprint: certificate.fingerprint,
        kind,
        name,
        restricted: body.restricted,
        projects: trust_tokens::projects(&call.app.db.model(), body.projects)?,
        pem: certificate.pem,
    };
    let fingerprint = record.fingerprint.clone();
    call.app
        .db
        .write(move |tx| {
            if tx.model().certificates.contains_key(&record.fingerprint) {
                return Err(Error::Trusted);
            }
            Ok(tx.put_certificate(record)?)
        })
        .await?;
    Ok(told_created(&call, &fingerprint))
}

fn told_created(call: &Call, fingerprint: &Fingerprint) -> Response {
    call.lifecycle("certificate-created", &url(fingerprint));
    response::created(&url(fingerprint))
}

/// The certificate that a body brings, else that of the connection.
fn given(call: &Call, text: &str) -> Result<ClientCertificate> {
    let certificate = match (text, &call.peer) {
        ("", Peer::Tls { certificate: Some(certificate), .. }) => (**certificate).clone(),
        ("", _) => {
            let reason = "it is missing, and the connection brings no certificate either".to_owned();
            return Err(Error::Field { name: "certificate", reason });
        }
        (text, _) => ClientCertificate::parse(text)?,
    };
    let now = crate::db::now();
    let untimely = |reason: &str| Err(Error::Field { name: "certificate", reason: reason.to_owned() });
    if now > certificate.not_after {
        return untimely("The provided certificate is expired: make a new one");
    }
    if now < certificate.not_before {
        return untimely("The provided certificate isn't valid yet: compare the clocks of both hosts");
    }
    if call.app.authority.revokes(&certificate) { Err(Error::Revoked) } else { Ok(certificate) }
}

async fn check_password(call: &Call, given: String) -> Result<()> {
    let Peer::Tls { address, .. } = &call.peer else { return Err(Error::Forbidden) };
    let stored = call.app.db.model().config.get("core.trust_password").filter(|hash| !hash.is_empty()).cloned();
    let Some(stored) = stored else { return Err(Error::Forbidden) };
    if !call.app.limiter.may_try(address.ip()) {
        return Err(Error::TooManyTries);
    }
    // One at a time: guesses from many addresses together must not take all processors.
    let _turn = call.app.limiter.turn().await;
    if !blocking(move || Ok::<_, Error>(password::verify(&given, &stored))).await? {
        return Err(Error::Forbidden);
    }
    call.app.limiter.succeeded(address.ip());
    Ok(())
}

/// Replaces a certificate's record by what `change` makes of it. A restricted caller may exchange its own certificate for
/// another, and nothing else.
async fn update(
    call: Call,
    change: impl FnOnce(&Call, &Model, &Certificate) -> Result<Certificate>,
) -> Result<Response> {
    let old = find(&call)?;
    let new = change(&call, &call.app.db.model(), &old)?;
    if new.kind != old.kind {
        return Err(Error::CertificateType);
    }
    let limits = |record: &Certificate| (record.name.clone(), record.restricted, record.projects.clone());
    if call.trust != Trust::Trusted && limits(&new) != limits(&old) {
        return Err(Error::OnlyCertificate);
    }
    let (wanted, source) = (call.if_match(), url(&new.fingerprint));
    call.app
        .db
        .write(move |tx| {
            let now = tx.model().certificates.get(&old.fingerprint).cloned().ok_or(Error::NotFound("Certificate"))?;
            wanted.check(modifiable(&now))?;
            if now != old {
                // The change was made of what is no more.
                return Err(Error::Precondition { wanted: response::etag(modifiable(&now)) });
            }
            if new.fingerprint != old.fingerprint {
                if tx.model().certificates.contains_key(&new.fingerprint) {
                    return Err(Error::Trusted);
                }
                tx.delete_certificate(&old.fingerprint)?;
            }
            Ok(tx.put_certificate(new)?)
        })
        .await?;
    call.app.sockets.review();
    call.lifecycle("certificate-updated", &source);
    Ok(response::empty())
}

/// The record with another certificate, if the text brings one.
fn renewed(call: &Call, record: Certificate, text: &str) -> Result<Certificate> {
    if text.is_empty() {
        return Ok(record);
    }
    let certificate = given(call, text)?;
    Ok(Certificate { fingerprint: certificate.fingerprint, pem: certificate.pem, ..record })
}

fn kind_of(text: &str) -> Result<CertificateKind> {
    CertificateKind::parse(text).ok_or(Error::CertificateType)
}

/// `PUT /1.0/certificates/<fingerprint>`.
pub async fn put(mut call: Call) -> Result<Response> {
    let body: wire::Certificate = call.json().await?;
    update(call, move |call, model, old| {
        let new = Certificate {
            kind: kind_of(&body.kind)?,
            name: body.name,
            restricted: body.restricted,
            projects: trust_tokens::projects(model, body.projects)?,
            ..old.clone()
        };
        renewed(call, new, &body.certificate)
    })
    .await
}

/// `PATCH /1.0/certificates/<fingerprint>`: only what the body names.
pub async fn patch(mut call: Call) -> Result<Response> {
    let (part, named): (wire::Certificate, _) = call.json_part().await?;
    update(call, move |call, model, old| {
        let mut new = old.clone();
        if named.has("type") {
            new.kind = kind_of(&part.kind)?;
        }
        if named.has("name") {
            new.name = part.name;
        }
        if named.has("restricted") {
            new.restricted = part.restricted;
        }
        if named.has("projects") {
            new.projects = trust_tokens::projects(model, part.projects)?;
        }
        renewed(call, new, &part.certificate)
    })
    .await
}

/// `DELETE /1.0/certificates/<fingerprint>`.
pub async fn delete(call: Call) -> Result<Response> {
    let fingerprint: Fingerprint = find(&call)?.fingerprint.clone();
    let source = url(&fingerprint);
    call.app
        .db
        .write(move |tx| {
            tx.model().certificates.get(&fingerprint).ok_or(Error::NotFound("Certificate"))?;
            Ok::<_, Error>(tx.delete_certificate(&fingerprint)?)
        })
        .await?;
    call.app.sockets.review();
    call.lifecycle("certificate-deleted", &source);
    Ok(response::empty())
}
