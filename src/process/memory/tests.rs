//! The readers against file trees as the kernel shows them.

use super::*;

const MEMINFO: &str = "MemTotal:        1048576 kB\nMemFree:          524288 kB\n";
const GIB: u64 = 1 << 30;

/// A file tree in a folder of its own, removed at the end.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let root =
            std::env::temp_dir().join(format!("leveret-memory-{}-{name}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(root)
    }

    fn limit(&self) -> Option<(u64, String)> {
        let limit = memory_limit_under(&self.0)?;
        let set_by = limit.set_by.strip_prefix(&self.0).unwrap();
        Some((limit.bytes, set_by.display().to_string()))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn version_2_inside_a_container() {
    let tree = Tree::new(
        "v2-container",
        &[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/\n"),
            (
                "proc/self/mountinfo",
                "31 24 0:27 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n",
            ),
            ("sys/fs/cgroup/memory.max", "268435456\n"),
        ],
    );
    assert_eq!(
        tree.limit(),
        Some((GIB / 4, "sys/fs/cgroup/memory.max".to_owned()))
    );
}

#[test]
fn version_2_takes_the_least_of_all_groups_above() {
    let slice = "sys/fs/cgroup/system.slice";
    let tree = Tree::new(
        "v2-nested",
        &[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/system.slice/leveret.service\n"),
            (
                "proc/self/mountinfo",
                "31 24 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            ),
            (&format!("{slice}/leveret.service/memory.max"), "max\n"),
            (&format!("{slice}/memory.max"), "536870912\n"),
        ],
    );
    assert_eq!(tree.limit(), Some((GIB / 2, format!("{slice}/memory.max"))));
}

#[test]
fn version_2_without_a_limit_leaves_the_host() {
    let tree = Tree::new(
        "v2-max",
        &[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/\n"),
            (
                "proc/self/mountinfo",
                "31 24 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            ),
            ("sys/fs/cgroup/memory.max", "max\n"),
        ],
    );
    assert_eq!(tree.limit(), Some((GIB, "proc/meminfo".to_owned())));
}

#[test]
fn version_1_where_the_container_sees_only_its_own_group() {
    // No namespace: the group's path names folders that exist on the host alone.
    let tree = Tree::new(
        "v1-container",
        &[
            ("proc/meminfo", MEMINFO),
            (
                "proc/self/cgroup",
                "12:cpu,cpuacct:/docker/ab\n7:memory:/docker/ab\n0::/docker/ab\n",
            ),
            (
                "proc/self/mountinfo",
                "40 30 0:35 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
             41 30 0:36 /docker/ab /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu,cpuacct\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "134217728\n"),
            ("sys/fs/cgroup/cpu/memory.limit_in_bytes", "1\n"),
        ],
    );
    let file = "sys/fs/cgroup/memory/memory.limit_in_bytes";
    assert_eq!(tree.limit(), Some((GIB / 8, file.to_owned())));
}

#[test]
fn version_1_in_a_group_on_the_host() {
    let group = "sys/fs/cgroup/memory/user/leveret/memory.limit_in_bytes";
    let files = [
        ("proc/meminfo", MEMINFO),
        ("proc/self/cgroup", "7:hugetlb,memory:/user/leveret\n"),
        (
            "proc/self/mountinfo",
            "40 30 0:35 / /sys/fs/cgroup/memory rw shared:1 - cgroup cgroup rw,hugetlb,memory\n",
        ),
        (
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "9223372036854771712\n",
        ),
        (group, "67108864\n"),
    ];
    let tree = Tree::new("v1-host", &files);
    assert_eq!(tree.limit(), Some((GIB / 16, group.to_owned())));

    let unlimited = Tree::new("v1-unlimited", &files[..4]);
    assert_eq!(unlimited.limit(), Some((GIB, "proc/meminfo".to_owned())));
}

#[test]
fn both_versions_at_once_take_the_least() {
    let tree = Tree::new(
        "hybrid",
        &[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "7:memory:/\n0::/\n"),
            (
                "proc/self/mountinfo",
                "40 30 0:35 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             41 30 0:36 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "300000000\n"),
            ("sys/fs/cgroup/unified/memory.max", "200000000\n"),
        ],
    );
    let file = "sys/fs/cgroup/unified/memory.max";
    assert_eq!(tree.limit(), Some((200_000_000, file.to_owned())));
}

#[test]
fn a_group_path_never_leaves_the_mount() {
    let mount = Mount::parse("1 2 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw").unwrap();
    assert_eq!(mount.group_inside("/../other"), PathBuf::new());
    assert_eq!(mount.group_inside("/a/b"), PathBuf::from("a/b"));
}

#[test]
fn nothing_is_claimed_where_nothing_is_known() {
    let tree = Tree::new("empty", &[("proc/self/cgroup", "nonsense\n:\n::\n")]);
    assert_eq!(tree.limit(), None);
    assert_eq!(host_memory_bytes("MemTotal: lots kB\n"), None);
    assert_eq!(group_limit_bytes("max\n"), None);
    assert_eq!(resident_pages("1"), None);
}

#[test]
fn this_process_uses_less_than_it_may() {
    let limit = memory_limit().unwrap();
    let used = resident_bytes().unwrap();
    assert!(used > 0 && used < limit.bytes, "{used} of {limit:?}");
}
