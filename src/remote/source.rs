//! Which image of which server: parsed once, at the edge.

use crate::api::wire::ImageOrigin;
use crate::fetch::{Proxies, Trust, Url};

use super::error::Error;

/// How a server is talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// LXD's API, which Incus and Warren speak, too.
    Lxd,
    /// Files on a plain server, with an index.
    Simplestreams,
    /// One address that tells of one image by its headers.
    Direct,
}

impl Protocol {
    /// As the API has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lxd => "lxd",
            Self::Simplestreams => "simplestreams",
            Self::Direct => "direct",
        }
    }

    fn parse(text: &str) -> Result<Self, Error> {
        match text {
            "" | "lxd" | "incus" => Ok(Self::Lxd),
            "simplestreams" => Ok(Self::Simplestreams),
            "direct" => Ok(Self::Direct),
            other => {
                let other = crate::names::shortened(other);
                Err(Error::Field {
                    name: "protocol",
                    reason: format!("{other:?} is not known: use lxd or simplestreams"),
                })
            }
        }
    }
}

/// By which word an image is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// A name that the server gives it.
    Alias(String),
    /// Its fingerprint, or a beginning that only one has.
    Fingerprint(String),
    /// By its address alone.
    Itself,
}

/// An image of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The server and its mirrors, in the order in which they are tried.
    pub(super) servers: Vec<Url>,
    pub(super) protocol: Protocol,
    /// PEM, as it came.
    certificate: String,
    pub(super) trust: Trust,
    /// For an image that is not public.
    pub(super) secret: String,
    /// The project there.
    pub(super) project: String,
    /// As the request has it: `container`, or nothing.
    image_type: String,
    /// Which image.
    pub(super) named: Named,
}

/// What a request says about a source, unparsed.
#[derive(Debug, Clone, Copy, Default)]
#[expect(missing_docs, reason = "the fields of the API")]
pub struct Asked<'a> {
    pub server: &'a str,
    pub protocol: &'a str,
    pub certificate: &'a str,
    pub secret: &'a str,
    pub project: &'a str,
    pub alias: &'a str,
    pub fingerprint: &'a str,
    pub image_type: &'a str,
}

/// So many mirrors are tried.
const MIRRORS: usize = 8;

impl Source {
    /// Reads what a request says.
    ///
    /// # Errors
    /// [`Error::Field`] and others that name what is wrong.
    pub fn parse(asked: Asked<'_>) -> Result<Self, Error> {
        let field = |name, reason: &str| Error::Field { name, reason: reason.to_owned() };
        let protocol = Protocol::parse(asked.protocol)?;
        if !matches!(asked.image_type, "" | "container") {
            let reason = format!("{:?} is not supported: Warren runs containers", asked.image_type);
            return Err(Error::Field { name: "image_type", reason });
        }
        let servers = asked.server.split_whitespace().map(Url::parse).collect::<Result<Vec<_>, _>>()?;
        if servers.is_empty() || servers.len() > MIRRORS {
            return Err(field("server", "it must name one server, or up to 8 mirrors separated by spaces"));
        }
        // What comes unencrypted can be anything: the hash comes by the same way.
        if protocol != Protocol::Direct && servers.iter().any(|server| !server.is_https()) {
            return Err(field("server", "image servers are reached by https:// only"));
        }
        let named = match (protocol, asked.alias, asked.fingerprint) {
            (Protocol::Direct, _, _) => Named::Itself,
            (_, "", "") => return Err(field("source", "it names no image: set \"alias\" or \"fingerprint\"")),
            // The client gives the fingerprint that it found, and the name for later; the stock one of LXD 5.0.2 calls a
            // name a fingerprint when the image is to follow its server.
            (_, _, text) if !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Named::Fingerprint(text.to_ascii_lowercase())
            }
            (_, "", name) | (_, name, _) => Named::Alias(name.to_owned()),
        };
        if let Named::Alias(text) = &named
            && (text.len() > 255 || text.contains(char::is_control))
        {
            return Err(field("alias", "it must have no more than 255 bytes, and no control characters"));
        }
        Ok(Self {
            servers,
            protocol,
            certificate: asked.certificate.to_owned(),
            trust: Trust::parse(asked.certificate)?,
            secret: asked.secret.to_owned(),
            // The same as none.
            project: if asked.project == "default" { String::new() } else { asked.project.to_owned() },
            image_type: asked.image_type.to_owned(),
            named,
        })
    }

    /// The one that an image came from.
    ///
    /// # Errors
    /// When nothing newer can come from there.
    pub(super) fn of(origin: &ImageOrigin) -> Result<Self, Error> {
        Self::parse(Asked {
            server: &origin.server,
            protocol: &origin.protocol,
            certificate: &origin.certificate,
            project: &origin.project,
            alias: &origin.alias,
            image_type: &origin.image_type,
            ..Asked::default()
        })
    }

    /// As the row of an image keeps it. `alias`: the name by which newer ones are found.
    pub fn origin(&self, alias: &str) -> ImageOrigin {
        ImageOrigin {
            alias: alias.to_owned(),
            certificate: self.certificate.clone(),
            protocol: self.protocol.as_str().to_owned(),
            server: self.shown(),
            image_type: self.image_type.clone(),
            project: self.project.clone(),
        }
    }

    /// Whether an image whose row has this was found by the same name at the same servers.
    pub(super) fn is_of(&self, origin: &ImageOrigin) -> bool {
        // A request may leave the type out.
        let own = ImageOrigin { image_type: origin.image_type.clone(), ..self.origin(self.alias()) };
        !own.alias.is_empty() && own == *origin
    }

    /// The name by which it is asked for; empty: by its fingerprint.
    pub fn alias(&self) -> &str {
        match &self.named {
            Named::Alias(alias) => alias,
            Named::Fingerprint(_) | Named::Itself => "",
        }
    }

    /// The name by which it, or a newer one of it, is found.
    pub fn alias_or<'a>(&'a self, asked: &'a str) -> &'a str {
        match &self.named {
            Named::Alias(alias) => alias,
            Named::Fingerprint(_) | Named::Itself => asked,
        }
    }

    /// Whether what it has is found in lists that are kept.
    pub(super) fn has_lists(&self) -> bool {
        self.protocol == Protocol::Simplestreams
    }

    /// The servers, as they were given.
    pub(super) fn shown(&self) -> String {
        let shown = |url: &Url| match self.protocol {
            Protocol::Direct => url.full(),
            Protocol::Lxd | Protocol::Simplestreams => url.full().trim_end_matches('/').to_owned(),
        };
        self.servers.iter().map(shown).collect::<Vec<_>>().join(" ")
    }

    /// The image, for an error.
    pub(super) fn what(&self) -> String {
        match &self.named {
            Named::Alias(text) | Named::Fingerprint(text) => text.clone(),
            Named::Itself => String::new(),
        }
    }
}

/// Whether there may be something newer where an image came from: it has a name there, or the address is all of it.
pub fn can_follow(origin: &ImageOrigin) -> bool {
    !origin.alias.is_empty() || origin.protocol == Protocol::Direct.as_str()
}

/// What the server's configuration says about proxies.
pub(super) fn proxies(config: &crate::api::wire::Config) -> Proxies {
    let text = |key: &str| config.get(key).cloned().unwrap_or_default();
    Proxies { http: text("core.proxy_http"), https: text("core.proxy_https"), ignored: text("core.proxy_ignore_hosts") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_parsed_once() {
        let asked = Asked { server: "https://a https://b/x", alias: "debian/12", ..Asked::default() };
        let source = Source::parse(asked).unwrap();
        assert_eq!((source.servers.len(), source.protocol, source.alias()), (2, Protocol::Lxd, "debian/12"));
        assert_eq!(Source::of(&source.origin("debian/12")).unwrap(), source, "what a row keeps leads back");
        for (wrong, says) in [
            (Asked { server: "", ..asked }, "server"),
            (Asked { server: "http://a", ..asked }, "https"),
            (Asked { server: "ftp://a", ..asked }, "ftp"),
            (Asked { protocol: "gopher", ..asked }, "gopher"),
            (Asked { alias: "", ..asked }, "names no image"),
            (Asked { image_type: "virtual-machine", ..asked }, "containers"),
            (Asked { certificate: "junk", ..asked }, "PEM"),
        ] {
            let error = Source::parse(wrong).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
