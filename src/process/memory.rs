//! How much memory the process may use and how much it uses.
//!
//! The limit is the least of the host's memory and of every control group (version 1 or 2) above
//! the process. A group's *usage* is never read: it counts the page cache too.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// The memory the process may use, and what says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// The limit in bytes.
    pub bytes: u64,
    /// The file that sets it.
    pub set_by: PathBuf,
}

/// Returns the memory the process may use, or nothing where the system does not tell.
#[must_use]
pub fn memory_limit() -> Option<MemoryLimit> {
    memory_limit_under(Path::new("/"))
}

/// Returns the bytes of memory the process occupies (RSS), or nothing where the system does not
/// tell.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let pages = resident_pages(&fs::read_to_string("/proc/self/statm").ok()?)?;
    let page_bytes = u64::try_from(rustix::param::page_size()).ok()?;
    Some(pages.saturating_mul(page_bytes))
}

/// Reads the limit on a system whose file tree begins at `root`.
fn memory_limit_under(root: &Path) -> Option<MemoryLimit> {
    let host = root.join("proc/meminfo");
    let host_limit = read(&host).as_deref().and_then(host_memory_bytes);
    let host_limit = host_limit.map(|bytes| MemoryLimit {
        bytes,
        set_by: host,
    });
    let groups = read(&root.join("proc/self/cgroup")).unwrap_or_default();
    let mounts = read(&root.join("proc/self/mountinfo")).unwrap_or_default();
    let group_limits = control_groups(&groups, &mounts)
        .into_iter()
        .flat_map(|group| group.limit_files(root))
        .filter_map(|file| {
            Some(MemoryLimit {
                bytes: group_limit_bytes(&read(&file)?)?,
                set_by: file,
            })
        });
    // The host comes first, so that a group without a real limit is not named.
    host_limit
        .into_iter()
        .chain(group_limits)
        .min_by_key(|limit| limit.bytes)
}

/// A control group that governs the process's memory: where its hierarchy is mounted, the group
/// inside it, and the file that holds a limit.
#[derive(Debug, PartialEq, Eq)]
struct ControlGroup {
    mount: PathBuf,
    group: PathBuf,
    file: &'static str,
}

impl ControlGroup {
    /// Returns the limit file of this group and of each group above it.
    fn limit_files(&self, root: &Path) -> Vec<PathBuf> {
        let mount = root.join(self.mount.strip_prefix("/").unwrap_or(&self.mount));
        self.group
            .ancestors()
            .map(|group| mount.join(group).join(self.file))
            .collect()
    }
}

/// Finds the process's memory groups from `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn control_groups(groups: &str, mounts: &str) -> Vec<ControlGroup> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (kind, file) = if controllers.is_empty() {
            (MountKind::Unified, "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            (MountKind::Memory, "memory.limit_in_bytes")
        } else {
            continue;
        };
        let mounted = mounts
            .lines()
            .filter_map(Mount::parse)
            .filter(|mount| mount.kind == kind);
        found.extend(mounted.map(|mount| {
            let group = mount.group_inside(path);
            ControlGroup {
                mount: mount.point,
                group,
                file,
            }
        }));
    }
    found
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MountKind {
    /// Version 2.
    Unified,
    /// Version 1, the memory controller.
    Memory,
}

/// One mounted hierarchy of control groups.
struct Mount {
    kind: MountKind,
    /// The group that the mount point shows; a container often sees only its own.
    shown: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// Reads one line of `/proc/self/mountinfo`; nothing for any other mount.
    fn parse(line: &str) -> Option<Self> {
        let (place, source) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (shown, point) = (place.next()?, place.next()?);
        let mut source = source.split(' ');
        let kind = match (source.next()?, source.nth(1)?) {
            ("cgroup2", _) => MountKind::Unified,
            ("cgroup", options) if options.split(',').any(|name| name == "memory") => {
                MountKind::Memory
            }
            _ => return None,
        };
        Some(Self {
            kind,
            shown: PathBuf::from(shown),
            point: PathBuf::from(point),
        })
    }

    /// Returns a group's path below the mount point. A group that the mount does not show, as in a
    /// container without a namespace of its own, is taken for the one that it does show.
    fn group_inside(&self, group: &str) -> PathBuf {
        let inside = Path::new(group)
            .strip_prefix(&self.shown)
            .unwrap_or_else(|_| Path::new(""));
        let stays_inside = |part: Component<'_>| matches!(part, Component::Normal(_));
        if inside.components().all(stays_inside) {
            inside.to_owned()
        } else {
            PathBuf::new()
        }
    }
}

/// Reads a limit file: a number, or `max` for none. Version 1 writes a huge number for none.
fn group_limit_bytes(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Reads `MemTotal` of `/proc/meminfo`.
fn host_memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1_024)
}

/// Reads the second field of `/proc/self/statm`.
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests;
