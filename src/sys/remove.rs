//! Removing trees that others made: however deep they are, without a stack and descriptors that grow with them.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// What lies deeper below the top is moved there first, and removed by another round.
const DEEPEST: u32 = 32;

/// Removes the directory `path` with all below it, or what else is there by this name. No link is followed.
///
/// # Errors
/// Of the first file that cannot be removed; what lies beside it may be gone, or lie elsewhere in the directory.
pub fn tree(path: &Path) -> io::Result<()> {
    match rustix::fs::unlinkat(CWD, path, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        result => return Ok(result?),
    }
    let top = open(rustix::fs::CWD, path)?;
    let mut round = Round { top: &top, moved: 0 };
    loop {
        let before = round.moved;
        round.clear(&top, 0)?;
        if round.moved == before {
            break;
        }
    }
    Ok(rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

fn open(at: impl std::os::fd::AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

struct Round<'a> {
    top: &'a OwnedFd,
    /// So many directories were moved to the top.
    moved: u64,
}

impl Round<'_> {
    /// Removes what is in a directory; calls itself [`DEEPEST`] times at most.
    fn clear(&mut self, directory: &OwnedFd, depth: u32) -> Result<(), Errno> {
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR) => {}
                Err(error) => return Err(error),
            }
            match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            if depth == DEEPEST {
                self.lift(directory, name)?;
                continue;
            }
            self.clear(&open(directory, name)?, depth + 1)?;
            match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn lift(&mut self, from: &OwnedFd, name: &std::ffi::CStr) -> Result<(), Errno> {
        loop {
            self.moved += 1;
            let to = format!(".removed-{}", self.moved);
            match rustix::fs::renameat_with(from, name, self.top, &to, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn trees_of_any_depth_and_width_go() {
        let dir = tempfile::tempdir().unwrap();
        let (top, outside) = (dir.path().join("top"), dir.path().join("outside"));
        fs::create_dir_all(top.join("wide")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "kept").unwrap();
        for number in 0..2000 {
            fs::write(top.join("wide").join(number.to_string()), "").unwrap();
        }
        fs::create_dir(top.join(".removed-1")).unwrap();
        fs::write(top.join(".removed-1/x"), "").unwrap();
        symlink(&outside, top.join("link")).unwrap();
        let mut at = open(CWD, &top).unwrap();
        // Deeper than the stack below would hold, were there a frame for each.
        for _ in 0..2000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            rustix::fs::symlinkat(&*outside, &at, "l").unwrap();
            at = open(&at, "d").unwrap();
        }
        drop(at);
        let thread = std::thread::Builder::new().stack_size(128 << 10);
        let place = top.clone();
        thread.spawn(move || tree(&place).unwrap()).unwrap().join().unwrap();
        assert!(!top.exists());
        assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "kept");
    }

    #[test]
    fn what_is_no_directory_goes_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let (link, to) = (dir.path().join("link"), dir.path().join("to"));
        fs::create_dir(&to).unwrap();
        symlink(&to, &link).unwrap();
        tree(&link).unwrap();
        assert!(to.exists() && link.symlink_metadata().is_err());
        assert_eq!(tree(&link).unwrap_err().kind(), io::ErrorKind::NotFound);
        tree(&to).unwrap();
    }
}
