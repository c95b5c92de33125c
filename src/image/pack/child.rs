//! The process that packs.

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::{Failure, Reply, Request, tarball};
use crate::sys::process;

/// How often it is told how far it is, at most.
const TELL: Duration = Duration::from_millis(100);
/// The longest request, bytes.
const MOST: u32 = 16 << 20;

/// Entry of `warrend pack`. There is one thread.
pub fn main() -> ExitCode {
    process::clean_inheritance();
    // A compressor that has ended says why itself.
    process::ignore_broken_pipes();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> io::Result<()> {
    let mut input = io::stdin().lock();
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > MOST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = vec![0; usize::try_from(length).unwrap_or_default()];
    input.read_exact(&mut text)?;
    drop(input);
    let request: Request = serde_json::from_slice(&text)?;
    // Whatever is going on then: who wanted it is gone, or does not want it any more, and clears up.
    std::thread::Builder::new().name("leash".to_owned()).spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    })?;
    let reply = match pack(&request) {
        Ok(reply) => reply,
        Err(failure) => Reply::Failed(failure),
    };
    say(&reply)
}

fn say(reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

fn pack(request: &Request) -> Result<Reply, Failure> {
    let survey = tarball::survey(&request.source)?;
    let metadata = tarball::metadata(&request.source, &request.about, &survey)?;
    let (mut told, mut shown) = (Instant::now(), 0);
    let mut tell = |done: u64| {
        let part = done.saturating_mul(100) / survey.bytes.max(1);
        if part > shown && told.elapsed() >= TELL {
            (told, shown) = (Instant::now(), part);
            // Whoever does not listen has ended.
            let _ = say(&Reply::Progress(done, survey.bytes));
        }
    };
    let written = tarball::write(request, &metadata, survey.date(), &mut tell)?;
    say(&Reply::Progress(survey.bytes, survey.bytes))?;
    Ok(Reply::Done { digest: written.digest, size: written.size, metadata })
}
