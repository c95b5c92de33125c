//! The daemon's own memory.
#![allow(unsafe_code, reason = "mallopt(3) and malloc_trim(3) have no safe interface")]

/// Heaps that threads share. The C library's own rule, eight for each processor, keeps in each what was freed.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;
/// Larger pieces go back to the kernel as soon as they are free, bytes. This is so at first, but the bound grows with what is
/// freed until somebody sets it.
#[cfg(target_env = "gnu")]
const PIECE: libc::c_int = 256 * 1024;
/// The free end of a heap goes back when it is longer, bytes. Shorter, it went and came again and again while an image came in, at an
/// eighth of the time.
#[cfg(target_env = "gnu")]
const END: libc::c_int = 8 * 1024 * 1024;

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

/// Gives back to the kernel what was freed and the C library keeps for later: after a rush it keeps most of it for ever.
/// Takes milliseconds, during which other threads may wait for memory.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointers, and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * rustix::param::page_size()
    }

    #[test]
    fn what_was_freed_goes_back() {
        // Small pieces, and one behind them that stays: of themselves they would not go.
        let pieces: Vec<Vec<u8>> = (0..64 * 1024).map(|_| vec![1; 1024]).collect();
        let last = std::hint::black_box(vec![1u8; 1024]);
        let full = resident();
        drop(std::hint::black_box(pieces));
        trim();
        assert!(resident() + (32 << 20) < full, "{} of {full} bytes", resident());
        drop(last);
    }
}
