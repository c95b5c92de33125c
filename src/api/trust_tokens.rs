//! Tokens: permissions to add one client's certificate to the trust store, each for one use.
//!
//! A token is a row of the database and, for everybody to see and to revoke, an operation of class `token`. The row
//! decides: it goes in the transaction that adds the certificate, so that of two who use it at once one is refused, and
//! it outlives the daemon.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::app::App;
use super::call::Call;
use super::error::Error;
use super::operations::told_cancelled;
use super::response::{self, Response};
use super::server_config::addresses;
use super::wire;
use crate::auth::ClientCertificate;
use crate::config;
use crate::db::{self, Certificate, CertificateKind, TrustToken, rfc3339};
use crate::events::lifecycle::Requestor;
use crate::names::{Fingerprint, ProjectName};
use crate::ops::{self, Operation, Spec};

type Result<T> = std::result::Result<T, Error>;

/// An expired token is remembered so long, seconds, so that who comes late is told why.
const REMEMBERED: db::Seconds = 24 * 60 * 60;

/// What an operation tells of a token; the client makes the token's text of it.
fn metadata(app: &App, token: &TrustToken) -> Map<String, Value> {
    let request = json!({
        "name": token.name, "type": CertificateKind::Client.as_str(), "restricted": token.restricted,
        "projects": token.projects, "certificate": "", "password": "", "token": true,
    });
    let mut told = Map::from_iter([
        ("addresses".to_owned(), json!(token.addresses)),
        ("fingerprint".to_owned(), json!(app.certificate.fingerprint)),
        ("request".to_owned(), request),
        ("secret".to_owned(), json!(token.secret)),
    ]);
    if token.expires_at > 0 {
        told.insert("expiresAt".to_owned(), rfc3339(token.expires_at).into());
    }
    told
}

/// The operation that stands for a token until that is used, revoked or expired.
fn operation(app: &Arc<App>, token: &TrustToken, requestor: Option<Requestor>) -> Arc<Operation> {
    let spec = Spec {
        description: "Executing operation",
        project: ProjectName::default(),
        resources: BTreeMap::new(),
        metadata: Some(metadata(app, token)),
        requestor,
        may_cancel: true,
    };
    let left = u64::try_from(token.expires_at - db::now()).unwrap_or(0);
    let expires = token.expires_at > 0;
    app.ops.invitation(token.id, spec, rfc3339(token.created_at), async move |_| {
        if expires {
            tokio::time::sleep(Duration::from_secs(left)).await;
            return Err(Error::TokenExpired);
        }
        std::future::pending::<std::result::Result<(), Error>>().await
    })
}

/// Has the tokens of earlier daemons stand again.
pub async fn resume(app: &Arc<App>) {
    let old = db::now() - REMEMBERED;
    let forgotten = app.db.write(move |tx| {
        let gone: Vec<Uuid> =
            tx.model().trust_tokens.values().filter(|t| (1..old).contains(&t.expires_at)).map(|t| t.id).collect();
        gone.iter().try_for_each(|id| tx.delete_trust_token(id))
    });
    if let Err(error) = forgotten.await {
        tracing::warn!(%error, "forgetting expired tokens");
    }
    let now = db::now();
    for token in app.db.model().trust_tokens.values().filter(|t| t.expires_at == 0 || t.expires_at > now) {
        operation(app, token, None);
    }
}

/// Names of projects that are there.
pub(super) fn projects(model: &db::Model, names: Vec<String>) -> Result<Vec<ProjectName>> {
    names
        .into_iter()
        .map(|name| {
            let name = ProjectName::new(name).map_err(|_| Error::NotFound("Project"))?;
            if model.projects.contains_key(&name) { Ok(name) } else { Err(Error::NotFound("Project")) }
        })
        .collect()
}

/// `POST /1.0/certificates` with `token`: makes one.
pub(super) async fn create(call: &Call, body: wire::CertificatesPost) -> Result<Response> {
    if !matches!(body.kind.as_str(), "" | "client") {
        let reason = "Tokens can only be issued for client certificates".to_owned();
        return Err(Error::Field { name: "type", reason });
    }
    if !body.certificate.is_empty() {
        let reason = "Can't use certificate if token is requested".to_owned();
        return Err(Error::Field { name: "certificate", reason });
    }
    let model = call.app.db.model();
    let addresses = addresses(model.config.get("core.https_address").map_or("", String::as_str));
    if addresses.is_empty() {
        return Err(Error::NotListening);
    }
    let created_at = db::now();
    let text = model.config.get("core.remote_token_expiry").map_or("", String::as_str);
    // What is no expiry is never recorded.
    let expiry = config::schedule::parse_expiry(text).unwrap_or_default();
    let token = TrustToken {
        id: Uuid::new_v4(),
        secret: ops::secret().map_err(|_| Error::Random)?,
        name: body.name,
        restricted: body.restricted,
        projects: projects(&model, body.projects)?,
        addresses,
        created_at,
        expires_at: config::schedule::expires(&expiry, created_at),
    };
    let row = token.clone();
    let old = created_at - REMEMBERED;
    call.app
        .db
        .write(move |tx| {
            let known = tx.model().trust_tokens.clone();
            for gone in known.values().filter(|t| (1..old).contains(&t.expires_at)) {
                tx.delete_trust_token(&gone.id)?;
            }
            Ok::<_, Error>(tx.put_trust_token(row)?)
        })
        .await?;
    call.lifecycle("certificate-token-created", "/1.0/certificates");
    Ok(response::accepted(&operation(&call.app, &token, Some(call.requestor()))))
}

/// Forgets the token that an operation stands for, if it does.
pub(super) async fn revoke(app: &App, operation: &Operation) -> Result<()> {
    let id = operation.id();
    if app.db.model().trust_tokens.contains_key(&id) {
        app.db.write(move |tx| Ok::<_, Error>(tx.delete_trust_token(&id)?)).await?;
    }
    Ok(())
}

/// What of a token's text matters to its server.
#[derive(Deserialize)]
pub(super) struct Presented {
    #[serde(default)]
    client_name: String,
    secret: String,
    // What makes it a token of LXD's form.
    #[serde(rename = "fingerprint")]
    _fingerprint: String,
    #[serde(rename = "addresses")]
    _addresses: Option<Vec<String>>,
}

impl Presented {
    /// Reads a token; what is none may be a password.
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_slice(&STANDARD.decode(text.trim()).ok()?).ok()
    }

    /// The token that this is. Digests are compared: how long that takes tells nothing of the secret.
    fn among(&self, model: &db::Model) -> Option<Arc<TrustToken>> {
        let digest = |text: &str| ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        let wanted = digest(&self.secret);
        let fits = |token: &&Arc<TrustToken>| digest(&token.secret).as_ref() == wanted.as_ref();
        model.trust_tokens.values().find(fits).filter(|token| token.name == self.client_name).cloned()
    }

    /// Adds a certificate, with the name and limits that the token was made with, and uses it up.
    ///
    /// # Errors
    /// 403 when there is no such token or it has expired; 409 when the certificate is trusted already, and 404 when a
    /// project is gone: the token is then not used up.
    pub(super) async fn redeem(self, call: &Call, certificate: ClientCertificate) -> Result<Fingerprint> {
        let app = &call.app;
        // Looked for here first: strangers get nothing into the writer's queue.
        self.among(&app.db.model()).ok_or(Error::NoToken)?;
        let fingerprint = certificate.fingerprint.clone();
        let used = app
            .db
            .write(move |tx| {
                let token = self.among(tx.model()).ok_or(Error::NoToken)?;
                if token.expires_at > 0 && token.expires_at <= db::now() {
                    return Err(Error::TokenExpired);
                }
                if tx.model().certificates.contains_key(&certificate.fingerprint) {
                    return Err(Error::Trusted);
                }
                tx.delete_trust_token(&token.id)?;
                tx.put_certificate(Certificate {
                    fingerprint: certificate.fingerprint,
                    kind: CertificateKind::Client,
                    name: token.name.clone(),
                    restricted: token.restricted,
                    projects: token.projects.clone(),
                    pem: certificate.pem,
                })?;
                Ok(token.id)
            })
            .await?;
        if let Ok(operation) = app.ops.get(used) {
            // It may have been cancelled in this moment.
            if operation.cancel().is_ok() {
                told_cancelled(call, &operation);
            }
        }
        Ok(fingerprint)
    }
}

/// For [`crate::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(text: &str) {
    Presented::read(text);
    Presented::read(&STANDARD.encode(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_no_tokens() {
        let token = |json: &str| Presented::read(&STANDARD.encode(json)).map(|token| token.secret);
        let text = r#"{"client_name":"x","fingerprint":"ab","addresses":["1.2.3.4:8443"],"secret":"s","expires_at":"0001-01-01T00:00:00Z"}"#;
        assert_eq!(token(text).as_deref(), Some("s"));
        assert_eq!(token(&text.replace(r#"["1.2.3.4:8443"]"#, "null")).as_deref(), Some("s"));
        for other in ["", "sesame", "{}", r#"{"secret":"s"}"#, "[]", "null"] {
            assert!(token(other).is_none() && Presented::read(other).is_none(), "{other}");
        }
    }
}
