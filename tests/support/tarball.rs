//! Tarballs, entry by entry.

pub type Tar = tar::Builder<Vec<u8>>;

/// One more entry, of root and the first second of all.
pub fn add(tar: &mut Tar, name: &str, kind: tar::EntryType, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(content.len() as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    tar.append_data(&mut header, name, content).unwrap();
}
