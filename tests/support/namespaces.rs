//! A test in network, mount and process namespaces of its own: whatever is seen there belongs to it, and ends with it.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

const INSIDE: &str = "WARREN_TEST_INSIDE";
/// Tells daemons of tests apart where process numbers do not, for each namespace has the same ones.
pub const ID: &str = "WARREN_TEST_ID";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// The new /sys shows the new namespace's interfaces; the control groups come along from the old one. The shell stays as
/// process 1 and takes in those whose parents die.
const SCRIPT: &str = r#"
set -e
mount --rbind /sys/fs/cgroup /mnt
mount -t sysfs sysfs /sys
mount --rbind /mnt /sys/fs/cgroup
umount -l /mnt
ip link set lo up
"$0" --exact "$1" --nocapture &
wait $!
"#;

/// Runs `body` in a copy of this program inside fresh namespaces. `test` is the calling test's name, with its modules.
pub fn isolated(test: &str, body: impl FnOnce()) {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == test) {
        return body();
    }
    let id = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", SCRIPT])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(INSIDE, test)
        .env(ID, id)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    // A name that no test has would run none, with success.
    assert!(output.status.success() && said.contains("1 passed"), "{test}: {said}");
    print!("{said}");
}
