//! What an instance's image says about it (`metadata.yaml`), and its templates: files beside the root, which nobody
//! inside the container reaches.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::blocking;
use super::error::Error;
use super::manager::Manager;
use crate::api::wire::{ImageMetadata, ImageTemplate};
use crate::image::{check_date, check_template};
use crate::names::InstanceKey;
use crate::storage::VolumeId;

/// The longest template, bytes.
pub const MAX_TEMPLATE: usize = 1024 * 1024;

/// The name of a template: a plain file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TemplateName(String);

impl TemplateName {
    /// `None` for what could be anything but a file in the directory of templates.
    pub fn parse(name: &str) -> Option<Self> {
        let plain = !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && !name.contains(['/', '\0']);
        plain.then(|| Self(name.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The directory of an instance's volume, and where its next file is written.
pub struct Place {
    volume: PathBuf,
    scratch: PathBuf,
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::Io { doing, path: path.to_owned(), error }
}

impl Place {
    /// `scratch`: a new name on the same file system, where a crash may leave a file.
    pub(super) fn new(volume: PathBuf, scratch: PathBuf) -> Self {
        Self { volume, scratch }
    }

    fn yaml(&self) -> PathBuf {
        self.volume.join("metadata.yaml")
    }

    /// The directory of the templates, which need not be there; a link in its place is not followed.
    pub(super) fn templates_dir(&self) -> Result<PathBuf, Error> {
        let dir = self.volume.join("templates");
        if dir.is_symlink() {
            return Err(Error::BadMetadata { reason: "\"templates\" is a link, not a directory".to_owned() });
        }
        Ok(dir)
    }

    /// The metadata; an instance without an image has none, which is no error.
    ///
    /// # Errors
    /// [`Error::BadMetadata`], or when the file cannot be read.
    pub fn read(&self) -> Result<ImageMetadata, Error> {
        let path = self.yaml();
        let mut text = Vec::new();
        match open(&path).and_then(|mut file| file.read_to_end(&mut text)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ImageMetadata::default()),
            read => read.map_err(failed("read", &path))?,
        };
        serde_norway::from_slice(&text).map_err(|e| Error::BadMetadata { reason: e.to_string() })
    }

    /// Replaces the metadata by what `change` makes of it; of two changes at once none is lost.
    ///
    /// # Errors
    /// [`Error::BadTemplate`], of the change, or when the file cannot be written; the old one stays then.
    pub fn change<E: From<Error>>(
        &self,
        change: impl FnOnce(Result<ImageMetadata, Error>) -> Result<ImageMetadata, E>,
    ) -> Result<(), E> {
        // Unlocked when it is closed (flock(2)).
        let dir = File::open(&self.volume).map_err(failed("open", &self.volume))?;
        rustix::fs::flock(&dir, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|error| failed("lock", &self.volume)(error.into()))?;
        let metadata = change(self.read())?;
        check_date(metadata.expiry_date)
            .map_err(|reason| Error::BadTemplate { key: "expiry_date".to_owned(), reason })?;
        let check = |(path, template): (&String, &ImageTemplate)| check_template(path, &template.template);
        let checked = metadata.templates.iter().try_for_each(check);
        checked.map_err(|(key, reason)| Error::BadTemplate { key, reason })?;
        Ok(self.write(&metadata)?)
    }

    fn write(&self, metadata: &ImageMetadata) -> Result<(), Error> {
        let text = serde_norway::to_string(metadata).map_err(|e| Error::BadMetadata { reason: e.to_string() })?;
        self.replace(&self.yaml(), text.as_bytes())
    }

    /// Names of the templates, sorted.
    ///
    /// # Errors
    /// When the directory cannot be read; none is fine.
    pub fn templates(&self) -> Result<Vec<TemplateName>, Error> {
        let dir = self.templates_dir()?;
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed("read", &dir))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed("read", &dir))?;
            // What can be opened, and nothing else.
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                names.extend(entry.file_name().to_str().and_then(TemplateName::parse));
            }
        }
        names.sort();
        Ok(names)
    }

    /// A template, to read.
    ///
    /// # Errors
    /// [`Error::NoTemplate`], or when it cannot be opened.
    pub fn open_template(&self, name: &TemplateName) -> Result<File, Error> {
        let path = self.templates_dir()?.join(name.as_str());
        open(&path).map_err(|error| missing(name, "open", path, error))
    }

    /// Adds or replaces a template.
    ///
    /// # Errors
    /// When it cannot be written; an old one stays then.
    pub fn write_template(&self, name: &TemplateName, text: &[u8]) -> Result<(), Error> {
        let dir = self.templates_dir()?;
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("create", &dir)(error)),
            Ok(()) | Err(_) => {}
        }
        self.replace(&dir.join(name.as_str()), text)
    }

    /// Writes a file so that a crash leaves the old one or the new one.
    fn replace(&self, path: &Path, text: &[u8]) -> Result<(), Error> {
        let write = || {
            let mut file = File::create(&self.scratch)?;
            file.write_all(text)?;
            file.sync_data()?;
            fs::rename(&self.scratch, path)
        };
        let written = write().map_err(failed("write", path));
        if written.is_err() {
            // It may not have been made at all.
            let _ = fs::remove_file(&self.scratch);
        }
        written
    }

    /// Removes a template.
    ///
    /// # Errors
    /// [`Error::NoTemplate`], or when it cannot be removed.
    pub fn delete_template(&self, name: &TemplateName) -> Result<(), Error> {
        let path = self.templates_dir()?.join(name.as_str());
        fs::remove_file(&path).map_err(|error| missing(name, "remove", path, error))
    }
}

/// Opens a file for reading; never what a link in its place names.
fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path)
}

fn missing(name: &TemplateName, doing: &'static str, path: PathBuf, error: io::Error) -> Error {
    // A link is none, either.
    let is_link = error.raw_os_error() == Some(libc::ELOOP);
    match error.kind() {
        io::ErrorKind::NotFound => Error::NoTemplate { name: name.as_str().to_owned() },
        _ if is_link => Error::NoTemplate { name: name.as_str().to_owned() },
        _ => Error::Io { doing, path, error },
    }
}

impl Manager {
    /// What the instance's image says about it, and its templates: blocking work on the volume's directory.
    ///
    /// # Errors
    /// [`Error::NotFound`], or of the work.
    pub async fn with_metadata<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        key: &InstanceKey,
        work: impl FnOnce(&Place) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let context = self.context();
        let record = context.db.model().instances.get(key).cloned().ok_or(Error::NotFound)?;
        let pool = context.pools.get(&record.pool).map_err(Error::from)?;
        let place = Place::new(pool.path(&VolumeId::of(key)), pool.scratch());
        blocking(move || work(&place)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_names_of_templates() {
        assert!(TemplateName::parse("hosts.tpl").is_some());
        for bad in ["", ".", "..", "a/b", "../x", ".new", "a\0"] {
            assert!(TemplateName::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn metadata_and_templates_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path().to_owned(), dir.path().join("scratch"));
        assert_eq!(place.read().unwrap(), ImageMetadata::default());
        let metadata =
            ImageMetadata { architecture: "x86_64".to_owned(), creation_date: 7, ..ImageMetadata::default() };
        place.write(&metadata).unwrap();
        assert_eq!(place.read().unwrap(), metadata);
        let name = TemplateName::parse("a.tpl").unwrap();
        assert!(matches!(place.open_template(&name), Err(Error::NoTemplate { .. })));
        place.write_template(&name, b"x").unwrap();
        assert_eq!(place.templates().unwrap(), std::slice::from_ref(&name));
        place.delete_template(&name).unwrap();
        assert!(place.templates().unwrap().is_empty());
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("templates/link")).unwrap();
        let link = TemplateName::parse("link").unwrap();
        assert!(place.templates().unwrap().is_empty());
        assert!(matches!(place.open_template(&link), Err(Error::NoTemplate { .. })));
        place.delete_template(&link).unwrap();
        // What an image might have put there to reach the host's files.
        fs::remove_dir(dir.path().join("templates")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("templates")).unwrap();
        let passwd = TemplateName::parse("passwd").unwrap();
        assert!(place.templates().is_err() && place.open_template(&passwd).is_err());
        assert!(place.write_template(&name, b"x").is_err() && place.delete_template(&name).is_err());
        fs::remove_file(dir.path().join("metadata.yaml")).unwrap();
        std::os::unix::fs::symlink("/etc/os-release", dir.path().join("metadata.yaml")).unwrap();
        assert!(place.read().is_err());
        fs::remove_file(dir.path().join("metadata.yaml")).unwrap();
        fs::write(dir.path().join("metadata.yaml"), "[").unwrap();
        assert!(matches!(place.read(), Err(Error::BadMetadata { .. })));
    }
}
