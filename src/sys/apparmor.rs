//! AppArmor: what the kernel has of it, and its parser, the program that checks and loads profiles.
//!
//! Facts: Linux `Documentation/admin-guide/LSM/apparmor.rst` and `security/apparmor/apparmorfs.c` for the files below
//! securityfs, apparmor_parser(8).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};

use super::process;

/// Where the kernel shows it.
const PLACE: &str = "/sys/kernel/security/apparmor";

/// What a kernel of AppArmor 3.0 has, as the parser's package tells it.
const FEATURES: &str = "/etc/apparmor.d/abi/3.0";

/// A profile takes the parser some milliseconds; one that includes what never ends must not hold anybody up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the kernel's AppArmor cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// The kernel has none, or it is off, or securityfs is not mounted.
    Kernel,
    /// This process is confined itself, by this label: it may not hand out others.
    Confined(String),
}

/// The kernel's part.
#[derive(Debug, Clone)]
pub struct Kernel {
    place: PathBuf,
}

impl Kernel {
    /// As it is mounted.
    ///
    /// # Errors
    /// [`Missing::Kernel`], [`Missing::Confined`].
    pub fn find() -> Result<Self, Missing> {
        let place = PathBuf::from(PLACE);
        if !place.join("features").is_dir() {
            return Err(Missing::Kernel);
        }
        let label = fs::read_to_string("/proc/self/attr/apparmor/current")
            .or_else(|_| fs::read_to_string("/proc/self/attr/current"))
            .unwrap_or_default();
        let label = label.trim_end_matches(['\n', '\0']);
        // Empty: another security module answers.
        if label.is_empty() || label == "unconfined" || label.ends_with("(unconfined)") {
            Ok(Self { place })
        } else {
            Err(Missing::Confined(label.to_owned()))
        }
    }

    /// Whether labels can be stacked, and namespaces of profiles made.
    pub fn stacks(&self) -> bool {
        let yes = |file: &str| fs::read_to_string(self.place.join(file)).is_ok_and(|text| text.trim() == "yes");
        yes("features/domain/stack") && yes("features/namespaces/profile") && self.namespaces_dir().is_dir()
    }

    /// The names of all loaded profiles that can be seen from here; those in profiles as `parent//child`.
    ///
    /// # Errors
    /// When the kernel does not list them.
    pub fn profiles(&self) -> io::Result<BTreeSet<String>> {
        let text = fs::read_to_string(self.place.join("profiles"))?;
        // "NAME (MODE)": a mode has no blanks, a name may.
        Ok(text.lines().filter_map(|line| line.rsplit_once(" (")).map(|(name, _)| name.to_owned()).collect())
    }

    fn namespaces_dir(&self) -> PathBuf {
        self.place.join("policy/namespaces")
    }

    /// The namespaces directly below the own one.
    pub fn namespaces(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.namespaces_dir()).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Makes an empty namespace; one that is there is emptied.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn make_namespace(&self, name: &str) -> io::Result<()> {
        self.remove_namespace(name)?;
        fs::create_dir(self.namespaces_dir().join(name))
    }

    /// Removes a namespace with all profiles in it; none is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_namespace(&self, name: &str) -> io::Result<()> {
        match fs::remove_dir(self.namespaces_dir().join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// `apparmor_parser`.
#[derive(Debug, Clone)]
pub struct Parser {
    program: PathBuf,
}

/// What a program said, and whether it was content.
struct Said {
    success: bool,
    out: String,
    err: String,
}

fn memory() -> io::Result<File> {
    Ok(File::from(memfd_create("apparmor", MemfdFlags::CLOEXEC)?))
}

fn content(mut file: &File) -> io::Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Parser {
    /// The first in `$PATH`, or where distributions have it; none: it is not installed.
    pub fn find() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        let runs = |file: &PathBuf| {
            fs::metadata(file).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        };
        std::env::split_paths(&path)
            .chain(usual)
            .map(|dir| dir.join("apparmor_parser"))
            .find(runs)
            .map(|program| Self { program })
    }

    fn run(&self, arguments: &[&str], file: Option<&Path>, input: &str) -> io::Result<Said> {
        // In memory, not pipes: nobody has to read while somebody writes.
        let (mut stdin, out, err) = (memory()?, memory()?, memory()?);
        stdin.write_all(input.as_bytes())?;
        stdin.rewind()?;
        let mut command = Command::new(&self.program);
        command.args(arguments).args(file);
        command.stdin(Stdio::from(stdin)).stdout(Stdio::from(out.try_clone()?)).stderr(Stdio::from(err.try_clone()?));
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", self.program.display()));
        let mut child = command.spawn().map_err(named)?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        let in_time = process::pidfd_open(pid).is_ok_and(|pidfd| process::ended(pidfd, PATIENCE));
        if !in_time {
            child.kill()?;
        }
        let status = child.wait()?;
        if !in_time {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "apparmor_parser did not end and was killed"));
        }
        Ok(Said { success: status.success(), out: content(&out)?, err: content(&err)? })
    }

    fn done(&self, arguments: &[&str], file: Option<&Path>, input: &str) -> io::Result<String> {
        let said = self.run(arguments, file, input)?;
        if said.success {
            return Ok(said.out);
        }
        // Where the kernel has no AppArmor this is said of every profile.
        let lines = said.err.lines().chain(said.out.lines()).map(str::trim);
        let told: Vec<&str> =
            lines.filter(|line| !line.is_empty() && !line.starts_with("Cache read/write disabled")).collect();
        let told = told.join("; ");
        Err(io::Error::other(if told.is_empty() { "apparmor_parser failed without a word".to_owned() } else { told }))
    }

    /// The names of the profiles that a text defines, in its order; those in profiles as `parent//child`.
    ///
    /// # Errors
    /// With what the parser says against the text.
    pub fn names(&self, text: &str) -> io::Result<Vec<String>> {
        let out = self.done(&["--quiet", "--names"], None, text)?;
        Ok(out.lines().map(str::to_owned).collect())
    }

    /// Compiles a text and loads nothing; needs no AppArmor in the kernel.
    ///
    /// # Errors
    /// With what the parser says against the text.
    pub fn check(&self, text: &str) -> io::Result<()> {
        let mut arguments = vec!["--quiet", "--skip-kernel-load", "--skip-cache"];
        if !Path::new(PLACE).join("features").exists() && Path::new(FEATURES).exists() {
            // For a kernel without features it would leave all rules out, and look at none.
            arguments.extend(["--kernel-features", FEATURES]);
        }
        self.done(&arguments, None, text).map(drop)
    }

    /// Loads the profile of a file, in the place of the one of its name that may be there. `cache` holds what was compiled.
    ///
    /// # Errors
    /// With what the parser says.
    pub fn load(&self, file: &Path, cache: &Path) -> io::Result<()> {
        let place = format!("--cache-loc={}", cache.display());
        self.done(&["--quiet", "--replace", "--write-cache", &place], Some(file), "").map(drop)
    }

    /// Takes a profile, which is loaded, out of the kernel.
    ///
    /// # Errors
    /// With what the parser says.
    pub fn unload(&self, name: &str) -> io::Result<()> {
        // Its name is all that counts.
        self.done(&["--quiet", "--remove"], None, &format!("profile \"{name}\" {{\n}}\n")).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_listed_by_name() {
        let place = std::env::temp_dir().join(format!("warren-test-apparmor-{}", std::process::id()));
        fs::create_dir_all(place.join("policy/namespaces")).unwrap();
        fs::write(place.join("profiles"), "lxd-a_</x y>//c d (enforce)\nman (complain)\n").unwrap();
        let kernel = Kernel { place: place.clone() };
        assert_eq!(kernel.profiles().unwrap(), ["lxd-a_</x y>//c d".to_owned(), "man".to_owned()].into());
        assert!(!kernel.stacks());
        kernel.make_namespace("n").unwrap();
        kernel.make_namespace("n").unwrap();
        assert_eq!(kernel.namespaces(), ["n".to_owned()].into());
        kernel.remove_namespace("n").unwrap();
        kernel.remove_namespace("n").unwrap();
        assert!(kernel.namespaces().is_empty());
        for file in ["domain/stack", "namespaces/profile"].map(|file| place.join("features").join(file)) {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "yes\n").unwrap();
        }
        assert!(kernel.stacks());
        fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn the_parser_names_and_checks() {
        let parser = Parser::find().unwrap();
        let names = parser.names("profile \"a b\" {\n  profile c {\n  }\n}\nprofile d { }\n").unwrap();
        assert_eq!(names, ["a b", "a b//c", "d"]);
        parser.check("profile a {\n  file,\n}\n").unwrap();
        let error = parser.check("profile a {\n  bogus,\n}\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("Cache"), "{error}");
        // Only who compiles sees it: one program, two ways to run it.
        let error = parser.check("profile a {\n  /x ix,\n  /x ux,\n}\n").unwrap_err().to_string();
        assert!(error.contains("conflicting"), "{error}");
    }
}
