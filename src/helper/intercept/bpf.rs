//! bpf(2) about programs that decide about devices in control groups below the container's own, as systemd and engines
//! use them where control groups are of version 2.
//!
//! Such a program can only refuse more: those of all groups above are asked, too. It is loaded by a child that has no right
//! but to load it, in the caller's control group, which pays for its memory, and only if it neither calls anything,
//! writes memory, loops, nor names another object. Files of the caller are copied once; what was checked is what is used.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{Caller, Outcome, field, identity, int, opened_by, read_file};
use crate::sys::cgroup::{Groups, Hierarchies};
use crate::sys::notify::{self, Notice, Verdict};
use crate::sys::{bpf, process};

/// More than any `union bpf_attr` that these commands know; who passes more wants something else.
const ATTRIBUTES: usize = 256;
/// Programs of usual rights have at most so many instructions (`BPF_MAXINSNS`).
const INSTRUCTIONS: usize = 4096;
/// Control groups are at most so deep: the walk up ends.
const DEPTH: usize = 256;

/// What a call passes, read once.
struct Attributes([u8; ATTRIBUTES]);

impl Attributes {
    /// `None` when it passes more than is known.
    fn read(caller: &Caller<'_>, address: u64, size: u64) -> Result<Option<Self>, Errno> {
        let mut bytes = [0; ATTRIBUTES];
        let Some(place) = usize::try_from(size).ok().and_then(|size| bytes.get_mut(..size)) else { return Ok(None) };
        caller.bytes(address, place)?;
        Ok(Some(Self(bytes)))
    }

    fn word(&self, at: usize) -> u32 {
        self.0.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }

    fn address(&self, at: usize) -> u64 {
        self.0.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    }

    /// Whether nothing is passed from here on.
    fn ends_at(&self, at: usize) -> bool {
        self.0.iter().skip(at).all(|byte| *byte == 0)
    }
}

pub(super) fn devices(
    caller: &Caller<'_>,
    notice: &Notice,
    listener: &OwnedFd,
    waits: impl Fn() -> Result<(), Errno>,
) -> Outcome {
    let [command, address, size, ..] = notice.arguments;
    let mighty = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
    if !caller.capabilities.contains(CapabilitySet::SYS_ADMIN) && !caller.capabilities.contains(mighty) {
        return Ok(Verdict::Continue);
    }
    // Both are 32 bits wide.
    let (command, size) = (u64::from(int(command).cast_unsigned()), u64::from(int(size).cast_unsigned()));
    let Some(passed) = Attributes::read(caller, address, size)? else { return Ok(Verdict::Continue) };
    match command {
        bpf::LOAD => load(caller, &passed, notice.id, listener, waits),
        bpf::ATTACH | bpf::DETACH if passed.word(8) == bpf::DEVICE_ATTACHMENT && passed.ends_at(16) => {
            change(caller, &passed, notice, command == bpf::ATTACH, waits)
        }
        _ => Ok(Verdict::Continue),
    }
}

/// Whether a program does nothing but read what it is asked about, compute, and answer (`Documentation/bpf/standardization`).
fn is_plain(instructions: &[u64]) -> bool {
    let mut rest = instructions.iter().copied();
    while let Some(instruction) = rest.next() {
        let [code, registers, low, high, ..] = instruction.to_le_bytes();
        let back = i16::from_le_bytes([low, high]) < 0;
        let fine = match (code & 0x07, code & 0xf0) {
            // A constant of 64 bits, in two; with a source it would be an object of the kernel's.
            (0, _) => {
                code == 0x18 && registers >> 4 == 0 && rest.next().is_some_and(|second| second.to_le_bytes()[0] == 0)
            }
            // Loads of what a register points to, in plain words only.
            (1, _) => code & 0xe0 == 0x60,
            (4 | 7, _) => true,
            // Calls, and jumps that may go back.
            (5, 0x80 | 0xe0) | (6, 0x00 | 0x80 | 0x90 | 0xe0) => false,
            (5 | 6, _) => !back,
            // Stores.
            _ => false,
        };
        if !fine {
            return false;
        }
    }
    true
}

fn load(
    caller: &Caller<'_>,
    passed: &Attributes,
    id: u64,
    listener: &OwnedFd,
    waits: impl Fn() -> Result<(), Errno>,
) -> Outcome {
    // No flags, no network device; what it may be attached as is the one thing or not said; nothing beyond that.
    let usual = passed.word(44) == 0 && passed.word(64) == 0 && passed.ends_at(72);
    let count = usize::try_from(passed.word(4)).unwrap_or(usize::MAX);
    if passed.word(0) != bpf::DEVICE_PROGRAM
        || !usual
        || !matches!(passed.word(68), 0 | bpf::DEVICE_ATTACHMENT)
        || !(1..=INSTRUCTIONS).contains(&count)
    {
        return Ok(Verdict::Continue);
    }
    let mut bytes = vec![0; 8 * count];
    caller.bytes(passed.address(8), &mut bytes)?;
    let instructions: Vec<u64> = bytes.as_chunks().0.iter().map(|eight| u64::from_le_bytes(*eight)).collect();
    if !is_plain(&instructions) {
        return Ok(Verdict::Continue);
    }
    let name = passed.0.get(48..64).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
    let hierarchies = Hierarchies::of_host().ok_or(Errno::PERM)?;
    let payer = hierarchies.dir(&Groups::parse(&read_file(caller.proc, "cgroup")?), "memory");
    let payer = payer
        .map(|(_, dir)| rustix::fs::open(dir.join("cgroup.procs"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()))
        .transpose()?;
    waits()?;
    let program = opened_by(|| {
        payer.map_or(Ok(0), |payer| rustix::io::write(payer, b"0"))?;
        let only = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
        let sets = CapabilitySets { effective: only, permitted: only, inheritable: CapabilitySet::empty() };
        rustix::thread::set_capabilities(None, sets)?;
        bpf::load_device_program(&instructions, name).map_err(|error| number(&error))
    })?;
    let given = notify::give_file(listener, id, &program).map_err(|error| number(&error))?;
    Ok(Verdict::Opened(given))
}

fn number(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn change(
    caller: &Caller<'_>,
    passed: &Attributes,
    notice: &Notice,
    attach: bool,
    waits: impl Fn() -> Result<(), Errno>,
) -> Outcome {
    let flags = passed.word(12);
    if flags & !(bpf::ALLOW_OVERRIDE | bpf::ALLOW_MULTI) != 0 {
        return Ok(Verdict::Continue);
    }
    let status = read_file(caller.proc, "status")?;
    let leader = field(&status, "Tgid").and_then(|text| text.parse().ok()).ok_or(Errno::SRCH)?;
    let file = |at: usize| {
        let copied = process::file_of(notice.thread, leader, passed.word(at).cast_signed());
        copied.map_err(|_| Errno::BADF)
    };
    let (group, program) = (file(0)?, file(4));
    waits()?;
    let above = above(&group, notice.init)?;
    if attach {
        // One that may be overridden would be, by this: it is asked no more.
        for group in &above {
            let (count, flags) = bpf::attached(group).map_err(|error| number(&error))?;
            if count > 0 && flags & bpf::ALLOW_MULTI == 0 {
                return Err(Errno::PERM);
            }
        }
        bpf::attach(&group, program?, flags).map_err(|error| number(&error))?;
    } else {
        bpf::detach(&group, program.ok()).map_err(|error| number(&error))?;
    }
    Ok(Verdict::Done)
}

/// All groups above this one, which must lie below the container's own.
fn above(group: &OwnedFd, init: i32) -> Result<Vec<OwnedFd>, Errno> {
    let own = Hierarchies::of_host().and_then(|found| found.unified_of_instance(init)).ok_or(Errno::PERM)?;
    let top = own.first().ok_or(Errno::PERM)?;
    let top = std::fs::metadata(top).map(|meta| (meta.dev(), meta.ino())).map_err(|error| number(&error))?;
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut found: Vec<OwnedFd> = Vec::new();
    // Groups of version 2 are never moved, so that what lies below stays there.
    loop {
        let last = found.last().map_or(group.as_fd(), AsFd::as_fd);
        let here = identity(last)?;
        if here.0 != top.0 || found.len() > DEPTH || (here == top && found.is_empty()) {
            return Err(Errno::PERM);
        }
        if here == top {
            break;
        }
        found.push(rustix::fs::openat(last, "..", directory, Mode::empty())?);
    }
    for dir in own.iter().skip(1) {
        found.push(rustix::fs::open(dir, directory, Mode::empty())?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_only_read_and_compute_are_plain() {
        // As engines write them: load the major number, compare, answer, end.
        let plain = [0x0000_0000_0004_1261, 0x0000_0001_0001_0255, 0x0000_0001_0000_00b7, 0x95];
        assert!(is_plain(&plain));
        assert!(is_plain(&[0x0000_0007_0000_0018, 0x0, 0x95]), "a constant of 64 bits");
        for (bad, why) in [
            (0x0000_0001_0000_0085, "a call"),
            (0x0000_0000_0000_1018, "a map"),
            (0x0000_0000_fff8_0a7a, "a store of a constant"),
            (0x0000_0000_fff8_1a7b, "a store"),
            (0x0000_0000_fff8_1adb, "an atomic operation"),
            (0x0000_0000_ffff_0005, "a jump back"),
            (0xffff_ffff_0000_0006, "a long jump back"),
            (0x0000_0000_0000_0030, "a load from a packet"),
            (0x0000_0000_0000_00e5, "a loop"),
            (0x0000_0000_0000_1281, "a load that extends the sign"),
        ] {
            assert!(!is_plain(&[bad, 0x0, 0x95]), "{why}");
        }
        assert!(!is_plain(&[0x18]), "half a constant");
    }
}
