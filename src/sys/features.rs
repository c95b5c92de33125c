//! What this kernel can do, in the words that LXD's API has for it (`environment.kernel_features`).

use std::collections::BTreeMap;
use std::fs::read_to_string;
use std::sync::OnceLock;

/// Kernel release as two numbers; an odd text is the oldest one.
fn release() -> (u32, u32) {
    let uname = rustix::system::uname();
    let text = uname.release().to_string_lossy().into_owned();
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Whether a line of one word stands in a file of the kernel.
fn lists(file: &str, wanted: &str) -> bool {
    read_to_string(file).unwrap_or_default().split_whitespace().any(|word| word == wanted)
}

/// The features but `idmapped_mounts`, which storage tries out. Where the kernel says nothing itself, the release that
/// brought the feature counts: capabilities(7) (file capabilities with a root user, 4.14), netdevice(7) and rtnetlink(7)
/// (addresses of another namespace and uevents into one, 4.18), seccomp_unotify(2) (to continue, 5.5).
pub fn kernel() -> &'static BTreeMap<&'static str, bool> {
    static FOUND: OnceLock<BTreeMap<&'static str, bool>> = OnceLock::new();
    FOUND.get_or_init(look)
}

fn look() -> BTreeMap<&'static str, bool> {
    let release = release();
    let listener = lists("/proc/sys/kernel/seccomp/actions_avail", "user_notif");
    [
        ("netnsid_getifaddrs", release >= (4, 18)),
        ("seccomp_listener", listener),
        ("seccomp_listener_continue", listener && release >= (5, 5)),
        ("shiftfs", lists("/proc/filesystems", "shiftfs")),
        ("uevent_injection", release >= (4, 18)),
        ("unpriv_fscaps", release >= (4, 14)),
    ]
    .into()
}
