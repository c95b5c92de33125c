//! The seccomp policy of an instance, in liblxc's format (version 2; lxc.container.conf(5)).

/// Denied where nobody says otherwise: unmounting by force (it breaks mounts of others), loading kernels and modules, and
/// opening files by handle, which walks around every path check. Everything else the kernel decides by the user namespace.
const USUAL: &[&str] = &[
    "kexec_load errno 1",
    "kexec_file_load errno 1",
    "open_by_handle_at errno 1",
    "init_module errno 1",
    "finit_module errno 1",
    "delete_module errno 1",
];

/// What an instance may ask of the kernel. The lines are checked ones.
#[derive(Debug, Clone, Copy)]
pub enum Policy<'a> {
    /// This text, whole.
    Raw(&'a str),
    /// Only these.
    Allow(&'a [&'a str]),
    /// All but these.
    Deny {
        /// These.
        lines: &'a [&'a str],
        /// And the usual ones.
        usual: bool,
        /// And these that only 32-bit programs have, on 64-bit x86.
        compat: &'a [&'a str],
    },
}

impl Policy<'_> {
    /// The text of the file.
    pub fn text(self) -> String {
        let list = |text: &mut String, lines: &[&str]| {
            for line in lines {
                text.push_str(line);
                text.push('\n');
            }
        };
        match self {
            Self::Raw(text) => text.to_owned(),
            Self::Allow(lines) => {
                let mut text = "2\nallowlist\n[all]\n".to_owned();
                list(&mut text, lines);
                text
            }
            Self::Deny { lines, usual, compat } => {
                let mut text = "2\ndenylist\n".to_owned();
                if usual {
                    text.push_str("reject_force_umount\n");
                }
                text.push_str("[all]\n");
                list(&mut text, if usual { USUAL } else { &[] });
                list(&mut text, lines);
                if !compat.is_empty() {
                    // What other programs have, too, would be denied to all by liblxc (tried with 5.0.2).
                    text.push_str("[x86]\n");
                    for name in compat {
                        // As if the kernel were built without them (ENOSYS).
                        text.push_str(&format!("{name} errno 38\n"));
                    }
                }
                text
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_written_as_liblxc_reads_them() {
        let deny = |usual, compat| Policy::Deny { lines: &["keyctl errno 38"], usual, compat }.text();
        assert!(deny(true, &[]).starts_with("2\ndenylist\nreject_force_umount\n[all]\nkexec_load errno 1\n"));
        assert!(deny(true, &[]).contains("init_module errno 1\n") && deny(true, &[]).ends_with("keyctl errno 38\n"));
        assert_eq!(deny(false, &["read"]), "2\ndenylist\n[all]\nkeyctl errno 38\n[x86]\nread errno 38\n");
        assert_eq!(Policy::Allow(&["read"]).text(), "2\nallowlist\n[all]\nread\n");
    }
}
