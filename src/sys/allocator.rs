//! The C library's memory allocator.
#![allow(unsafe_code, reason = "mallopt(3) has no safe interface")]

/// Heaps that threads share. The C library's own rule, eight for each processor, keeps in each what was freed.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;
/// Larger pieces go back to the kernel as soon as they are free, bytes. This is so at first, but the bound grows with what is
/// freed until somebody sets it.
#[cfg(target_env = "gnu")]
const PIECE: libc::c_int = 256 * 1024;
/// The free end of a heap goes back when it is longer, bytes.
#[cfg(target_env = "gnu")]
const END: libc::c_int = 512 * 1024;

/// Has freed memory go back to the kernel, at the cost of page faults: a daemon lives long, and what it once held for an image
/// or a thousand connections would be kept. To be called while there is one thread. Other C libraries than glibc do so
/// themselves.
pub fn give_back() {
    // SAFETY: no pointers, and no other thread that allocates (mallopt(3)).
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_TRIM_THRESHOLD, END);
        libc::mallopt(libc::M_MMAP_THRESHOLD, PIECE);
    }
}
