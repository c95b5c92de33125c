//! Where groups lie as directories.

use std::path::{Path, PathBuf};

use super::{Groups, Hierarchies, PAYLOAD};

impl Hierarchies {
    /// The directories of `groups` in all hierarchies, each once.
    pub fn all_dirs(&self, groups: &Groups) -> Vec<PathBuf> {
        let v1 = self.v1.iter().filter_map(|(name, mount)| Some(mount.dir(groups.v1.get(name)?)));
        let mut dirs: Vec<PathBuf> = v1.chain(self.unified_dir(groups)).collect();
        dirs.sort();
        dirs.dedup();
        dirs
    }

    /// The directory of `groups` in the unified hierarchy.
    pub fn unified_dir(&self, groups: &Groups) -> Option<PathBuf> {
        Some(self.v2.as_ref()?.dir(groups.v2.as_ref()?))
    }

    /// The directories from this instance's own group in the unified hierarchy, which is the first, up to where that is
    /// mounted. `None` when its init is in no group that liblxc made for it.
    pub fn unified_of_instance(&self, init: i32) -> Option<Vec<PathBuf>> {
        let mount = self.v2.as_ref()?;
        let dir = self.unified_dir(&Groups::of_instance(init).ok()?)?;
        let own = dir.file_name()?.to_str()?.starts_with(PAYLOAD) && dir.starts_with(&mount.point);
        own.then(|| dir.ancestors().take_while(|dir| dir.starts_with(&mount.point)).map(Path::to_owned).collect())
    }
}
