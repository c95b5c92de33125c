//! Names as SFTP shows them.

use rustix::fs::Stat;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::helper::files::root::kind;

/// A path from the root, without `.`, `..` and doubled slashes. It need not exist, and links in it stay.
pub(super) fn absolute(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut whole = Vec::with_capacity(path.len() + 1);
    for part in &parts {
        whole.push(b'/');
        whole.extend_from_slice(part);
    }
    if whole.is_empty() { b"/".to_vec() } else { whole }
}

/// A line as `ls -ln` writes it: what simple clients show (draft-ietf-secsh-filexfer-02, 7).
pub(super) fn long(name: &[u8], stat: &Stat) -> Vec<u8> {
    let letter = match kind(stat) {
        rustix::fs::FileType::Directory => 'd',
        rustix::fs::FileType::Symlink => 'l',
        rustix::fs::FileType::Fifo => 'p',
        rustix::fs::FileType::Socket => 's',
        rustix::fs::FileType::CharacterDevice => 'c',
        rustix::fs::FileType::BlockDevice => 'b',
        rustix::fs::FileType::RegularFile | rustix::fs::FileType::Unknown => '-',
    };
    let mut bits = String::with_capacity(10);
    bits.push(letter);
    for (shift, special, set, unset) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')] {
        let mode = stat.st_mode >> shift;
        bits.push(if mode & 4 != 0 { 'r' } else { '-' });
        bits.push(if mode & 2 != 0 { 'w' } else { '-' });
        bits.push(match (stat.st_mode & special != 0, mode & 1 != 0) {
            (true, true) => set,
            (true, false) => unset,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    let when = OffsetDateTime::from_unix_timestamp(stat.st_mtime).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let recent = (OffsetDateTime::now_utc() - when).whole_days().abs() < 182;
    let when = if recent {
        when.format(format_description!("[month repr:short] [day padding:space] [hour]:[minute]"))
    } else {
        when.format(format_description!("[month repr:short] [day padding:space]  [year]"))
    };
    let (links, uid, gid, size) = (stat.st_nlink, stat.st_uid, stat.st_gid, stat.st_size);
    let when = when.unwrap_or_default();
    let mut line = format!("{bits} {links:>4} {uid:<8} {gid:<8} {size:>8} {when} ").into_bytes();
    line.extend_from_slice(name);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute() {
        for (path, wanted) in [("", "/"), (".", "/"), ("..", "/"), ("a/./b//../c/", "/a/c"), ("/../../etc", "/etc")] {
            assert_eq!(absolute(path.as_bytes()), wanted.as_bytes(), "{path}");
        }
    }

    #[test]
    fn a_line_is_that_of_ls() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o4750)).unwrap();
        let line = String::from_utf8(long(b"name", &rustix::fs::stat(file.path()).unwrap())).unwrap();
        assert!(line.starts_with("-rwsr-x---    1 "), "{line}");
        assert!(line.ends_with(" name"), "{line}");
    }
}
