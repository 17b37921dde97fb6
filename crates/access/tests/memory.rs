//! What permissions take of memory.

use leveret_access::{Access, Permission, Right, TopicPermission, User, UserLimits};

/// Users with a permission and a topic permission each.
const USERS: usize = 20_000;
/// What each may take, bytes: texts, names and places in trees. Where each pattern was
/// compiled it took 43,000 with plain ones and 66,000 with others.
const USER_BYTES_MAX: usize = 3_000;
/// What compiled patterns may take, bytes: twice what they may weigh, as those that are used have
/// a scratch space.
const COMPILED_BYTES_MAX: usize = 128 << 20;

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.unwrap().parse::<usize>().unwrap() << 10
}

/// Grants what `pattern` gives for each number, and uses it. Gives the bytes that it took, too.
fn grown(users: usize, pattern: impl Fn(usize) -> String) -> (usize, Access) {
    let before = resident();
    let mut access = Access::new(Vec::new());
    for number in 0..users {
        let name = format!("user-{number}");
        let user = User {
            name: name.clone(),
            password: None,
            tags: Vec::new(),
            limits: UserLimits::default(),
        };
        access.put_user(user).unwrap();
        let permission = Permission {
            write: pattern(number),
            read: pattern(number),
            ..Permission::full(&name, "/")
        };
        access.put_permission(permission).unwrap();
        let topic = TopicPermission {
            user: name.clone(),
            vhost: "/".into(),
            exchange: "amq.topic".into(),
            write: "^{username}\\.".into(),
            read: ".*".into(),
        };
        access.put_topic_permission(topic).unwrap();
        assert!(access.may("/", &name, Right::Write, &format!("q{number}-orders")));
        assert!(!access.may("/", &name, Right::Read, "other"));
    }
    (resident() - before, access)
}

/// Equal patterns are one; plain ones are not compiled; of the others so many are as have room.
/// `LEVERET_DIFFERENT_PATTERNS=20000` takes a minute, most of it to see that they are valid.
#[test]
fn a_permission_takes_little_more_than_its_text() {
    let (equal, _equal) = grown(USERS, |_| r"^q\d+-orders$".into());
    let (plain, _plain) = grown(USERS, |number| format!("^q{number}-"));
    let few = std::env::var("LEVERET_DIFFERENT_PATTERNS");
    let few = few.map_or(200, |few| few.parse().unwrap());
    let (different, _different) = grown(few, |number| format!("^q{number}-[a-z]+$"));
    println!("{USERS} users with equal patterns {equal} bytes, with plain ones {plain}");
    println!("{few} users with other ones {different} bytes");
    assert!(equal < USERS * USER_BYTES_MAX, "{equal}");
    assert!(plain < USERS * USER_BYTES_MAX, "{plain}");
    assert!(
        different < few * USER_BYTES_MAX + COMPILED_BYTES_MAX,
        "{different}"
    );
}
