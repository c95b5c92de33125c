//! The daemon's own memory.
#![allow(unsafe_code, reason = "malloc_trim(3)")]

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
