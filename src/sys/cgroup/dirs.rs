//! Where groups lie as directories.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Groups, Hierarchies, MONITOR, PAYLOAD};

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

    /// Removes what is left of the groups of all lives of a container that has ended, in the group `parent`, with all groups
    /// below them, from every hierarchy. One that has processes is left as it is. `of_another`: whether it is the name of
    /// another container, whose groups may be called like those of this one's later lives.
    pub fn remove_lives(&self, parent: &str, container: &str, of_another: impl Fn(&str) -> bool) {
        for dir in self.v1.values().chain(&self.v2).map(|mount| mount.dir(parent)) {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let of_life = [MONITOR, PAYLOAD].iter().find_map(|kind| name.to_str()?.strip_prefix(kind));
                if of_life.is_some_and(|life| is_life(life, container) && (life == container || !of_another(life))) {
                    remove_tree(&entry.path());
                }
            }
        }
    }

    /// The directories of the controller's groups in `parent` that may be those of a container's processes.
    pub fn lives(&self, controller: &str, parent: &str, container: &str) -> Vec<PathBuf> {
        let Some(mount) = self.v1.get(controller).or(self.v2.as_ref()) else { return Vec::new() };
        let entries = fs::read_dir(mount.dir(parent)).into_iter().flatten().flatten();
        let of_life = |dir: &fs::DirEntry| {
            dir.file_name()
                .to_str()
                .and_then(|name| name.strip_prefix(PAYLOAD))
                .is_some_and(|life| is_life(life, container))
        };
        entries.filter(of_life).map(|dir| dir.path()).collect()
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

/// Whether `life` may be what liblxc calls a life of `container` in the names of groups: it adds a number where the group of
/// an earlier life is still there.
fn is_life(life: &str, container: &str) -> bool {
    let number = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
    life.strip_prefix(container).is_some_and(|rest| rest.is_empty() || rest.strip_prefix('-').is_some_and(number))
}

/// Whether `groups`, in the format of `/proc/<pid>/cgroup`, are those of a process of `container`.
pub fn is_of_container(groups: &str, container: &str) -> bool {
    let lives = groups.lines().flat_map(|line| line.split('/')).filter_map(|part| part.strip_prefix(PAYLOAD));
    lives.into_iter().any(|life| is_life(life, container))
}

/// A group can be removed when nothing is below it and no process is in it; its files do not count (cgroups(7)).
fn remove_tree(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    // EBUSY: somebody lives there.
    let _ = fs::remove_dir(dir);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_lives() {
        for life in ["c1", "c1-1", "c1-12"] {
            assert!(is_life(life, "c1"), "{life}");
        }
        for other in ["c", "c11", "c1-", "c1-a", "c1-1a", "p_c1", "c2"] {
            assert!(!is_life(other, "c1"), "{other}");
        }
        assert!(is_of_container("1:cpu:/w/lxc.payload.c1-1/init.scope\n0::/\n", "c1"));
        assert!(!is_of_container("0::/w/lxc.monitor.c1/x\n", "c1"));
    }

    #[test]
    fn what_is_left_of_lives_goes_and_that_of_other_containers_stays() {
        let temp = tempfile::tempdir().unwrap();
        let mountinfo = format!("30 1 0:26 / {} rw - cgroup2 cgroup2 rw\n", temp.path().display());
        let hierarchies = Hierarchies::from_mountinfo(&mountinfo).unwrap();
        let parent = temp.path().join("w");
        for group in
            ["lxc.monitor.c1", "lxc.payload.c1/init.scope", "lxc.monitor.c1-1", "lxc.monitor.c1-2", "lxc.monitor.c11"]
        {
            fs::create_dir_all(parent.join(group)).unwrap();
        }
        hierarchies.remove_lives("w", "c1", |name| name == "c1-2");
        let mut left: Vec<_> = fs::read_dir(&parent).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["lxc.monitor.c1-2", "lxc.monitor.c11"]);
    }
}
