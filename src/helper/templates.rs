//! The templates of an instance: rendered and written by the helper, as the instance's own root, below its root directory.
//!
//! What a hostile template costs is paid by the helper (see [`crate::template`]); what a hostile root would lead astray stays in
//! it (see [`super::files::root`]). Templates are read before the instance's user namespace is entered: they lie beside the root.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::child::{answer, fail};
use super::files::root::Root;
use super::files::{FilePath, Ownership, Refusal, Writing};
use super::launcher::Launcher;
use super::protocol::{Inbox, Reply, Request};
use super::{ContainerRef, Error};
use crate::names::both_ends;
use crate::sys::{process, userns};
use crate::template::{self, Context, MAX_SOURCE, Map, Subject};

/// All templates of an instance together.
const ANSWER: Duration = Duration::from_secs(60);
/// Seconds of a processor that they may take together.
const CPU: u64 = 30;
/// Of what they may fill the memory with; the program itself counts, too.
const MEMORY: u64 = 2 << 30;
/// So much text may the templates of an instance have together, bytes.
const MAX_SOURCES: usize = 16 * MAX_SOURCE;

/// One file that is made from a template.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TemplateRun {
    /// Why.
    pub trigger: String,
    /// The file.
    pub path: FilePath,
    /// The name of the template, a plain one.
    pub template: String,
    /// What the metadata give it.
    pub properties: Map,
    /// A file that is there stays as it is.
    pub create_only: bool,
}

/// What is to be made, in this order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TemplatesRequest {
    /// The instance.
    pub subject: Subject,
    /// The files.
    pub runs: Vec<TemplateRun>,
}

impl Launcher {
    /// Writes files of an instance from templates that lie in the directory `templates`, below `root`; of an unprivileged
    /// instance, as the root of its user namespace.
    ///
    /// # Errors
    /// [`Error::Template`] with the first that could not be made; those before it are.
    pub async fn templates(
        &self,
        container: &ContainerRef,
        root: BorrowedFd<'_>,
        templates: BorrowedFd<'_>,
        namespace: Option<BorrowedFd<'_>>,
        request: TemplatesRequest,
    ) -> Result<(), Error> {
        let mut line = self.line("write the templates of", container)?;
        let fds: Vec<_> = [root, templates].into_iter().chain(namespace).collect();
        line.send(&Request::Templates(request), &fds).await?;
        match line.reply_within(ANSWER).await? {
            Reply::Done => {
                line.finish();
                Ok(())
            }
            Reply::Failed { reason } => Err(Error::Template { reason }),
            _ => Err(line.broken("gave a wrong answer")),
        }
    }
}

/// Serves a request. The fds that came along: the root, the directory of templates, and the user namespace to enter.
pub(super) fn serve(socket: &OwnedFd, mut inbox: Inbox, request: &TemplatesRequest) -> io::Result<()> {
    process::limit("cpu", Some(CPU), Some(CPU))?;
    process::limit("as", Some(MEMORY), Some(MEMORY))?;
    let mut fds = std::mem::take(&mut inbox.fds).into_iter();
    let mut next = || fds.next().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput));
    let (root, templates) = (Root::new(next()?), next()?);
    match make(&root, &templates, fds.next(), request) {
        Ok(()) => answer(socket, &Reply::Done, &[]),
        Err(reason) => fail(socket, &reason),
    }
}

fn make(
    root: &Root,
    templates: &OwnedFd,
    namespace: Option<OwnedFd>,
    request: &TemplatesRequest,
) -> Result<(), String> {
    let about = |run: &TemplateRun, reason: &dyn std::fmt::Display| {
        let name = both_ends(&run.template);
        format!("The template {name:?} of {} ({}): {reason}", run.path, run.trigger)
    };
    let mut sources = Vec::new();
    let mut length = 0;
    for run in &request.runs {
        let source = read(templates, &run.template).map_err(|reason| about(run, &reason))?;
        length += source.len();
        if length > MAX_SOURCES {
            return Err(about(run, &format!("with it, the templates have more than {MAX_SOURCES} bytes")));
        }
        sources.push(source);
    }
    if let Some(namespace) = namespace {
        userns::enter(namespace).map_err(|error| format!("Entering the instance's user namespace: {error}"))?;
    }
    // Modes are as asked for.
    rustix::process::umask(Mode::empty());
    for (run, source) in request.runs.iter().zip(sources) {
        if run.create_only && root.look(run.path.as_bytes(), true).is_ok() {
            continue;
        }
        // As the metadata write it.
        let path = String::from_utf8_lossy(run.path.as_bytes());
        let context =
            Context { subject: &request.subject, trigger: &run.trigger, path: &path, properties: &run.properties };
        let text = template::render(&source, &context).map_err(|error| about(run, &error))?;
        write(root, &run.path, text.as_bytes()).map_err(|refusal| about(run, &refusal))?;
    }
    Ok(())
}

fn read(templates: &OwnedFd, name: &str) -> Result<String, String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let missing =
        || "there is no such template: add it by \"lxc config template create\", or take it out of the metadata";
    let plain = !name.is_empty() && !name.contains('/') && !matches!(name, "." | "..");
    if !plain {
        return Err("its name is not that of a file".to_owned());
    }
    let opened = rustix::fs::openat(templates, name, flags, Mode::empty());
    let file = File::from(opened.map_err(|error| match error {
        rustix::io::Errno::NOENT | rustix::io::Errno::LOOP => missing().to_owned(),
        error => format!("it cannot be read: {error}"),
    })?);
    if !file.metadata().is_ok_and(|found| found.is_file()) {
        return Err(missing().to_owned());
    }
    let mut bytes = Vec::new();
    file.take(MAX_SOURCE as u64 + 1).read_to_end(&mut bytes).map_err(|error| format!("it cannot be read: {error}"))?;
    String::from_utf8(bytes).map_err(|error| {
        let line =
            1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        format!("line {line}: it is not UTF-8")
    })
}

/// Writes a file; one that is there stays the same file, with its owner and mode. Directories that are missing are made.
fn write(root: &Root, path: &FilePath, text: &[u8]) -> Result<(), Refusal> {
    let owned = |mode| Ownership { uid: Some(0), gid: Some(0), mode: Some(mode) };
    let new = owned(0o644);
    let open = || Writing::open(root, path, false, new, Ownership::default());
    let writing = match open() {
        Err(Refusal::NoParent) => {
            let bytes = path.as_bytes();
            let slashes = bytes.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/');
            for (end, _) in slashes {
                root.make_directory(&bytes[..end], owned(0o755), 0o755)?;
            }
            open()?
        }
        opened => opened?,
    };
    writing.whole(root, path, text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    fn run(path: &str, template: &str, create_only: bool) -> TemplateRun {
        TemplateRun {
            trigger: "start".to_owned(),
            path: FilePath::new(path.into()).unwrap(),
            template: template.to_owned(),
            properties: Map::new(),
            create_only,
        }
    }

    fn made(dir: &Path, runs: Vec<TemplateRun>) -> Result<(), String> {
        let subject = Subject { name: "c1".to_owned(), ..Subject::default() };
        let (root, templates) = (Root::new(open(&dir.join("root"))), open(&dir.join("templates")));
        make(&root, &templates, None, &TemplatesRequest { subject, runs })
    }

    fn place() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        std::fs::create_dir(dir.path().join("templates")).unwrap();
        std::fs::write(dir.path().join("templates/name"), "{{ instance.name }}\n").unwrap();
        std::fs::write(dir.path().join("templates/bad"), "\n{% if %}").unwrap();
        dir
    }

    #[test]
    fn files_and_their_directories_are_made_and_those_that_are_there_kept() {
        let dir = place();
        let at = |path: &str| dir.path().join("root").join(path);
        std::fs::write(at("old"), "much longer than what comes").unwrap();
        std::fs::set_permissions(at("old"), std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(at("kept"), "as it was").unwrap();
        let runs = vec![
            run("/a/b/new", "name", false),
            run("relative", "name", true),
            run("/old", "name", false),
            run("/kept", "name", true),
        ];
        made(dir.path(), runs).unwrap();
        let mode = |path: &str| std::fs::metadata(at(path)).unwrap().permissions().mode() & 0o7777;
        for (path, text, expected) in [("a/b/new", "c1\n", 0o644), ("relative", "c1\n", 0o644), ("old", "c1\n", 0o600)]
        {
            assert_eq!((std::fs::read_to_string(at(path)).unwrap().as_str(), mode(path)), (text, expected), "{path}");
        }
        assert_eq!((mode("a"), mode("a/b")), (0o755, 0o755));
        assert_eq!(std::fs::read_to_string(at("kept")).unwrap(), "as it was");
    }

    #[test]
    fn nothing_outside_the_root_is_written() {
        let dir = place();
        let at = |path: &str| dir.path().join("root").join(path);
        std::fs::write(dir.path().join("secret"), "outside").unwrap();
        symlink("../secret", at("up")).unwrap();
        symlink(dir.path(), at("away")).unwrap();
        symlink(dir.path().join("secret"), at("file")).unwrap();
        made(dir.path(), vec![run("/../secret", "name", false), run("/up/../up", "name", false)]).unwrap_err();
        made(dir.path(), vec![run("/up", "name", false), run("/../x", "name", false)]).unwrap();
        // A directory that a link promises and the root does not have.
        made(dir.path(), vec![run("/away/x", "name", false)]).unwrap_err();
        made(dir.path(), vec![run("/file", "name", false)]).unwrap_err();
        assert_eq!(std::fs::read_to_string(dir.path().join("secret")).unwrap(), "outside");
        assert_eq!(std::fs::read_to_string(at("secret")).unwrap(), "c1\n");
        assert!(at("x").is_file() && !dir.path().join("x").exists());
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o666), 0)
            .unwrap();
        assert!(made(dir.path(), vec![run("/pipe", "name", false)]).unwrap_err().contains("pipe or socket"));
        assert!(made(dir.path(), vec![run("/x/", "name", false)]).is_err());
        assert!(made(dir.path(), vec![run("/", "name", false)]).is_err());
    }

    #[test]
    fn errors_name_template_file_and_line() {
        let dir = place();
        let error = made(dir.path(), vec![run("/f", "bad", false)]).unwrap_err();
        assert!(error.contains("\"bad\" of /f (start): line 2: "), "{error}");
        let error = made(dir.path(), vec![run("/f", "none", false)]).unwrap_err();
        assert!(error.contains("no such template"), "{error}");
        symlink("/etc/passwd", dir.path().join("templates/link")).unwrap();
        std::fs::write(dir.path().join("templates/bytes"), b"\n\n\xff").unwrap();
        for (name, reason) in
            [("link", "no such"), ("../secret", "not that of a file"), ("..", "not that"), ("bytes", "line 3")]
        {
            let error = made(dir.path(), vec![run("/f", name, false)]).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        assert!(!dir.path().join("root/f").exists());
    }
}
