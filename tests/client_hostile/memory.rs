//! How much of this host a server can take.

use serde_json::json;

use super::support::broken_server::{BrokenServer, Request, Stream, answer, endless, frame, metadata, upgrade};
use super::support::tls::Identity;
use super::{Place, WARREN};

#[test]
fn memory_is_bounded_by_the_client() {
    // What the server does, the verb, the error, and the memory that may be taken for it.
    type Does = fn(&Request, &mut dyn Stream) -> bool;
    let cases: &[(&str, Does, &[&str], &str, u32)] = &[
        (
            "a body without end",
            |_, stream| {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n");
                endless(stream, " ")
            },
            &["list"],
            "It is longer than 48 MiB",
            128,
        ),
        (
            "chunks without end",
            |_, stream| {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
                let _ = stream.write_all(head.as_bytes());
                endless(stream, &format!("4000\r\n{}\r\n", "x".repeat(0x4000)))
            },
            &["list"],
            "It is longer than 48 MiB",
            128,
        ),
        (
            "a length beyond all",
            |_, stream| answer(stream, "200 OK", "application/json", "Content-Length: 9999999999999\r\n", ""),
            &["list"],
            "Error:",
            64,
        ),
        (
            "a promise of much",
            |_, stream| {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999999999999\r\n\r\n";
                let _ = stream.write_all(head.as_bytes());
                false
            },
            &["list"],
            "It is longer than 48 MiB",
            64,
        ),
        (
            "a refusal without end",
            |_, stream| {
                let _ = stream.write_all(b"HTTP/1.1 500 Oops\r\nContent-Type: text/html\r\n\r\n");
                endless(stream, "<html>")
            },
            &["list"],
            "It is longer than 1 MiB",
            64,
        ),
        (
            "a file without end where none is",
            |_, stream| {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n");
                endless(stream, "<html>")
            },
            &["list"],
            "It is longer than 48 MiB",
            128,
        ),
        (
            "a header without end",
            |_, stream| {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ");
                endless(stream, "x")
            },
            &["list"],
            "The connection to the daemon broke",
            64,
        ),
        (
            "headers without end",
            |_, stream| {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
                endless(stream, "X: y\r\n")
            },
            &["list"],
            "The connection to the daemon broke",
            64,
        ),
        (
            "informational answers without end",
            |_, stream| endless(stream, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX: y\r\n\r\nX"),
            &["list"],
            "The connection to the daemon broke",
            64,
        ),
        (
            "small JSON that is large in memory",
            |_, stream| {
                let body = format!("{{\"type\":\"sync\",\"metadata\":[{}0]}}", "{\"\":0},".repeat(2_000_000));
                answer(stream, "200 OK", "application/json", "", &body)
            },
            &["list"],
            "It has more parts than fit in 96 MiB",
            64,
        ),
        (
            "events in a frame without end",
            |request, stream| {
                if !request.path.starts_with("/1.0/events") {
                    return metadata(stream, &json!({}));
                }
                upgrade(request, stream);
                let _ = stream.write_all(&frame(1, 1 << 40));
                endless(stream, "x")
            },
            &["monitor"],
            "The connection to the daemon broke",
            64,
        ),
        (
            "a message of frames without end",
            |request, stream| {
                if !request.path.starts_with("/1.0/events") {
                    return metadata(stream, &json!({}));
                }
                upgrade(request, stream);
                // A text that goes on, and never does the bit stand that ends it.
                let mut piece = vec![0x01, 126, 0x40, 0x00];
                piece.extend([b'x'; 0x4000]);
                while stream.write_all(&piece).is_ok() {
                    piece[0] = 0;
                }
                false
            },
            &["monitor"],
            "The connection to the daemon broke",
            64,
        ),
        (
            "an upgrade without end",
            |request, stream| {
                if !request.path.starts_with("/1.0/events") {
                    return metadata(stream, &json!({}));
                }
                let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n");
                endless(stream, "X: y\r\n")
            },
            &["monitor"],
            "The connection to the daemon broke",
            64,
        ),
    ];
    for (what, does, verb, told, mebibytes) in cases {
        let place = Place::new();
        place.serve(*does);
        let said = place.within(*mebibytes, verb);
        assert!(said.code == 1 && said.err.contains(told), "{what}: {} {}{}", said.code, said.out, said.err);
    }
    // A stranger whose certificate is only just being accepted.
    let (_, address) = BrokenServer::over_tls(&Identity::new(), |_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n");
        endless(stream, " ")
    });
    let place = Place::new();
    let said = place.within(64, &["remote", "add", "x", &address.to_string(), "--accept-certificate"]);
    said.refused("It is longer than 1 MiB");
    assert!(!place.path("conf/servercerts/x.crt").exists());
}

#[test]
fn a_file_that_is_fetched_may_be_of_any_size() {
    let place = Place::new();
    place.serve(|_, stream| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nX-LXD-type: file\r\nContent-Length: 104857600\r\n\r\n";
        let _ = stream.write_all(head.as_bytes());
        let piece = vec![b'x'; 1 << 20];
        (0..100).all(|_| stream.write_all(&piece).is_ok())
    });
    place.within(64, &["file", "pull", "c1/x", "big"]).ok();
    assert_eq!(std::fs::metadata(place.path("big")).unwrap().len(), 100 << 20);
    let mut query = place.by(&["prlimit", "--data=67108864", WARREN], &["query", "/1.0/images/x/export"]);
    query.stdout(std::fs::File::create(place.path("query")).unwrap());
    assert!(query.status().unwrap().success());
    assert_eq!(std::fs::metadata(place.path("query")).unwrap().len(), 100 << 20);
}
