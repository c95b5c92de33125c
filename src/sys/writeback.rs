//! Telling the kernel to write what it holds of a file.
#![allow(unsafe_code, reason = "sync_file_range(2) has no safe interface")]

use std::fs::File;
use std::os::fd::AsRawFd;

/// Begins to write what the kernel holds of a file, without waiting (sync_file_range(2)): whoever syncs it later has less to
/// wait for. Where that is unknown, nothing is lost.
pub fn begin(file: &File) {
    // SAFETY: the descriptor is open as long as the file lives, and the call takes no pointers.
    let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}
