//! The PROXY protocol, versions 1 and 2, by which a proxy that is trusted says where its client is.
//!
//! Source: HAProxy's `proxy-protocol.txt`. Headers are read to their end and no byte further: TLS begins there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// What version 1 begins with.
const WORD: &[u8] = b"PROXY ";
/// The longest line of version 1, with its end.
const MAX_LINE: usize = 107;
/// The longest that the addresses of version 2 and what follows them may be; more than that is no header.
const MAX_REST: usize = 2048;

fn wrong(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Whether a header comes, or the connection begins without one, as TLS does.
async fn announced(stream: &TcpStream) -> io::Result<bool> {
    let mut start = [0; 1];
    let count = stream.peek(&mut start).await?;
    Ok(count == 1 && matches!(start[0], b'P' | b'\r'))
}

/// Where the client is: what the proxy says, if it says anything; else `None`.
///
/// # Errors
/// When what comes begins as a header and is none, or the connection ends.
pub(super) async fn client(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    if announced(stream).await? { header(stream).await } else { Ok(None) }
}

/// Reads a header.
async fn header(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    // No header is shorter.
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if start == SIGNATURE {
        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if length > MAX_REST {
            return Err(wrong("the header is too long"));
        }
        let mut rest = vec![0; length];
        stream.read_exact(&mut rest).await?;
        return second(head[0], head[1], &rest);
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() >= MAX_LINE {
            return Err(wrong("the line is too long"));
        }
        line.push(stream.read_u8().await?);
    }
    first(&line)
}

/// Version 1: `PROXY TCP4 192.0.2.1 192.0.2.2 1025 8443\r\n`, or `PROXY UNKNOWN …`.
fn first(line: &[u8]) -> io::Result<Option<SocketAddr>> {
    let text = line.strip_prefix(WORD).and_then(|rest| rest.strip_suffix(b"\r\n"));
    let text = text.and_then(|text| std::str::from_utf8(text).ok()).ok_or_else(|| wrong("no header of version 1"))?;
    let fields: Vec<&str> = text.split(' ').collect();
    let address = |ip: IpAddr, port: &str| {
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or_else(|| wrong("no port"))?;
        Ok(Some(SocketAddr::new(ip, port)))
    };
    match fields[..] {
        ["UNKNOWN", ..] => Ok(None),
        ["TCP4", from, to, port, _] => {
            let (from, _) = from
                .parse::<Ipv4Addr>()
                .ok()
                .zip(to.parse::<Ipv4Addr>().ok())
                .ok_or_else(|| wrong("no IPv4 address"))?;
            address(from.into(), port)
        }
        ["TCP6", from, to, port, _] => {
            let (from, _) = from
                .parse::<Ipv6Addr>()
                .ok()
                .zip(to.parse::<Ipv6Addr>().ok())
                .ok_or_else(|| wrong("no IPv6 address"))?;
            address(from.into(), port)
        }
        _ => Err(wrong("no header of version 1")),
    }
}

/// Version 2: version and command, family and protocol, and what follows the length.
fn second(command: u8, family: u8, rest: &[u8]) -> io::Result<Option<SocketAddr>> {
    let short = || wrong("the addresses are cut off");
    match (command, family) {
        // The proxy itself asks, to see whether we are there.
        (0x20, _) => Ok(None),
        (0x21, 0x11) => {
            let (from, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
            let port = rest.first_chunk::<2>().ok_or_else(short)?;
            // `from` holds both addresses.
            let ip = Ipv4Addr::new(from[0], from[1], from[2], from[3]);
            Ok(Some(SocketAddr::new(ip.into(), u16::from_be_bytes(*port))))
        }
        (0x21, 0x21) => {
            let (from, rest) = rest.split_first_chunk::<16>().ok_or_else(short)?;
            let port = rest.get(16..).and_then(<[u8]>::first_chunk::<2>).ok_or_else(short)?;
            Ok(Some(SocketAddr::new(Ipv6Addr::from(*from).into(), u16::from_be_bytes(*port))))
        }
        // No TCP, such as a unix socket: said, but no address.
        (0x21, _) => Ok(None),
        (_, _) => Err(wrong("no command of version 2")),
    }
}

/// For [`crate::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(mut bytes: &[u8]) {
    // What is in memory is read at once.
    let _ = futures_util::FutureExt::now_or_never(header(&mut bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> (Option<Option<String>>, Vec<u8>) {
        let mut rest = bytes;
        let found = header(&mut rest).await.ok();
        (found.map(|address| address.map(|address| address.to_string())), rest.to_vec())
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    #[tokio::test]
    async fn headers_are_read_to_their_end() {
        let v4: Vec<u8> = [[192, 0, 2, 1, 192, 0, 2, 2], [4, 1, 0x20, 0xfb, 9, 9, 9, 9]].concat();
        let v6 = [&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 16], &[4, 1, 0, 1]].concat();
        for (bytes, wanted) in [
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1025 8443\r\n".to_vec(), Some("192.0.2.1:1025")),
            (b"PROXY TCP6 2001:db8::1 ::1 1025 8443\r\n".to_vec(), Some("[2001:db8::1]:1025")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ff::ff ::1 1 2\r\n".to_vec(), None),
            (v2(0x21, 0x11, &v4), Some("192.0.2.1:1025")),
            (v2(0x21, 0x21, &v6), Some("[2001:db8::1]:1025")),
            (v2(0x20, 0, b""), None),
            (v2(0x21, 0x31, &[0; 216]), None),
        ] {
            let tls = [0x16, 3, 1];
            let (found, rest) = read(&[bytes, tls.to_vec()].concat()).await;
            assert_eq!(found, Some(wanted.map(str::to_owned)));
            assert_eq!(rest, tls);
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        for bytes in [
            b"PROXY nonsense\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1025\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 1025 1\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 +1025 8443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 99999 8443\r\n".to_vec(),
            b"POST / HTTP/1.1\r\n\r\n".to_vec(),
            [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200], b"\r\n"].concat(),
            b"PROXY".to_vec(),
            v2(0x11, 0x11, &[0; 12]),
            v2(0x22, 0x11, &[0; 12]),
            v2(0x21, 0x11, &[0; 9]),
            v2(0x21, 0x21, &[0; 33]),
            v2(0x21, 0x11, &[0; 3000]),
            v2(0x21, 0x11, &[0; 12])[..20].to_vec(),
        ] {
            assert_eq!(read(&bytes).await.0, None, "{bytes:?}");
        }
    }
}
