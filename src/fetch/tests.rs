use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// A server that says this to every request, and then waits; what it was asked.
async fn server(says: &'static str) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, asked) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
    let heard = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let heard = Arc::clone(&heard);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap_or(b'\n'));
                }
                heard.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
                let _ = stream.write_all(says.as_bytes()).await;
                let _ = stream.read_u8().await;
            });
        }
    });
    (port, asked)
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn client(proxies: &Proxies) -> Client {
    // None of this machine's own.
    let ignored = if proxies.ignored.is_empty() { "none.invalid".to_owned() } else { proxies.ignored.clone() };
    let proxies = Proxies { ignored, ..proxies.clone() };
    Client::new(&Trust::System, &proxies).unwrap().with_stall(Duration::from_millis(300))
}

fn direct() -> Client {
    client(&Proxies { ignored: "*".to_owned(), ..Proxies::default() })
}

fn url(port: u16) -> Url {
    Url::parse(&format!("http://127.0.0.1:{port}/x")).unwrap()
}

async fn read(client: &Client, url: &Url) -> Result<Vec<u8>, Error> {
    client.read(url, &HeaderMap::new(), 1000).await.map(|(_, body)| body)
}

#[tokio::test]
async fn what_is_asked_says_who_asks() {
    let (port, asked) = server(OK).await;
    assert_eq!(read(&direct(), &url(port)).await.unwrap(), b"ok");
    let asked = asked.lock().unwrap()[0].to_ascii_lowercase();
    assert!(asked.starts_with("get /x http/1.1\r\n"), "{asked}");
    assert!(asked.contains(&format!("host: 127.0.0.1:{port}\r\n")) && asked.contains("user-agent: warren "), "{asked}");
}

#[tokio::test]
async fn silence_is_not_waited_for() {
    for says in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhalf"] {
        let (port, _) = server(says).await;
        let error = read(&direct(), &url(port)).await.unwrap_err();
        assert!(matches!(error, Error::Stalled { .. }), "{says:?}: {error}");
    }
    // A download tries again and again, not for ever.
    let (port, asked) = server("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhalf").await;
    let client = direct().with_stall(Duration::from_millis(20));
    let mut download = client.download(&url(port), &HeaderMap::new(), Total::Exactly(5)).await.unwrap();
    let error = loop {
        match download.chunk().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it never came"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Stalled { .. }), "{error}");
    assert_eq!(asked.lock().unwrap().len(), 6);
}

#[tokio::test]
async fn heads_and_bodies_are_bounded() {
    let fields: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n", "y".repeat(200_000));
    for says in [format!("HTTP/1.1 200 OK\r\n{fields}\r\n"), long, "nonsense\r\n\r\n".to_owned()] {
        let (port, _) = server(says.leak()).await;
        let error = read(&direct(), &url(port)).await.unwrap_err();
        assert!(matches!(error, Error::Broken { .. }), "{error}");
    }
    for says in [
        "HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n{}\r\n0\r\n\r\n", "y".repeat(2000)),
    ] {
        let (port, _) = server(says.leak()).await;
        assert!(matches!(read(&direct(), &url(port)).await.unwrap_err(), Error::TooLong { .. }));
    }
}

#[tokio::test]
async fn what_a_server_far_away_says_leads_to_nobody_near() {
    let (port, asked) = server(OK).await;
    let far = Url::parse("http://192.0.2.1/").unwrap();
    let named = Url::parse(&format!("http://localhost:{port}/x")).unwrap();
    for near in [&url(port), &named, &Url::parse("http://169.254.169.254/latest/meta-data").unwrap()] {
        let error = read(&direct().guarded(&far), near).await.unwrap_err();
        assert!(matches!(error, Error::Redirect { .. }), "{error}");
    }
    assert!(asked.lock().unwrap().is_empty(), "nothing was sent");
    // One that is near itself may, but not to what only hangs on the wire.
    for origin in [&url(port), &named] {
        assert_eq!(read(&direct().guarded(origin), &url(port)).await.unwrap(), b"ok");
        let wire = Url::parse("http://169.254.169.254/latest/meta-data").unwrap();
        let error = read(&direct().guarded(origin), &wire).await.unwrap_err();
        assert!(matches!(error, Error::Redirect { .. }), "{error}");
    }
}

#[test]
fn redirects_stay_on_safe_ways() {
    let from = Url::parse("https://a/b/c").unwrap();
    assert_eq!(redirected(&from, "d").unwrap().to_string(), "https://a/b/d");
    assert_eq!(redirected(&from, "https://e/d").unwrap().to_string(), "https://e/d");
    for to in ["http://a/b", "file:///etc/shadow", "ftp://a", "//", "unix:/run/x"] {
        assert!(matches!(redirected(&from, to), Err(Error::Redirect { .. })), "{to}");
    }
    let plain = Url::parse("http://a/").unwrap();
    assert!(redirected(&plain, "https://a/").is_ok() && redirected(&plain, "/x").is_ok());
}

#[tokio::test]
async fn proxies_are_asked_as_they_are_set() {
    let (port, asked) = server(OK).await;
    let proxy = format!("http://user:word@127.0.0.1:{port}");
    let both = Proxies { http: proxy.clone(), https: proxy, ignored: "127.0.0.1, near.invalid".to_owned() };
    let client = client(&both);
    let plain = Url::parse("http://far.invalid/y?secret=abc").unwrap();
    assert_eq!(read(&client, &plain).await.unwrap(), b"ok");
    let first = asked.lock().unwrap().pop().unwrap();
    assert!(first.starts_with("GET http://far.invalid/y?secret=abc HTTP/1.1\r\n"), "{first}");
    assert!(first.contains("dXNlcjp3b3Jk"), "user:word: {first}");
    // It opens no way for TLS, only an answer.
    let (refusing, tunnelled) = server("HTTP/1.1 403 Forbidden\r\n\r\n").await;
    let https = Proxies { https: format!("http://127.0.0.1:{refusing}"), ..both.clone() };
    let error = read(&self::client(&https), &Url::parse("https://far.invalid/y").unwrap()).await.unwrap_err();
    assert!(matches!(&error, Error::Proxy { reason, .. } if reason.contains("403")), "{error}");
    assert!(tunnelled.lock().unwrap()[0].starts_with("CONNECT far.invalid:443 HTTP/1.1\r\n"));
    // Those hosts are reached without; the secret of an image is not shown.
    assert_eq!(read(&client, &url(port)).await.unwrap(), b"ok");
    assert!(asked.lock().unwrap().pop().unwrap().starts_with("GET /x "));
    let near = Url::parse("https://a.near.invalid/?secret=abc&x=y").unwrap();
    let error = read(&client, &near).await.unwrap_err().to_string();
    assert!(error.contains("resolved"), "{error}");
    assert_eq!(near.to_string(), "https://a.near.invalid/?secret=…&x=y");
    let socks = Proxies { http: "socks5://127.0.0.1:1".to_owned(), ..Proxies::default() };
    assert!(matches!(read(&self::client(&socks), &plain).await.unwrap_err(), Error::Proxy { .. }));
}

#[tokio::test]
async fn what_a_proxy_refuses_may_pass_or_not() {
    for (answer, passes) in [
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", true),
        ("HTTP/1.1 503 busy\n\n", true),
        ("", true),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", false),
        ("HTTP/1.1 407 who\r\n\r\n", false),
        ("nonsense\r\n\r\n", false),
    ] {
        let (port, _) = server(answer).await;
        let client = client(&Proxies { https: format!("http://127.0.0.1:{port}"), ..Proxies::default() });
        let error = read(&client, &Url::parse("https://far.invalid/y").unwrap()).await.unwrap_err();
        assert!(matches!(&error, Error::Proxy { .. }) && error.is_passing() == passes, "{answer}: {error}");
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let client = client(&Proxies { https: format!("http://127.0.0.1:{nobody}"), ..Proxies::default() });
    let error = read(&client, &Url::parse("https://far.invalid/y").unwrap()).await.unwrap_err();
    assert!(error.is_passing() && error.to_string().contains("cannot be reached"), "{error}");
}

#[tokio::test]
async fn a_list_that_is_packed_is_refused() {
    let (port, asked) = server("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nxx").await;
    let error = direct().read(&url(port), &HeaderMap::new(), 1 << 20).await.map(drop).unwrap_err();
    assert!(matches!(&error, Error::Encoded { coding, .. } if coding == "gzip"), "{error}");
    assert!(asked.lock().unwrap()[0].to_ascii_lowercase().contains("\r\naccept-encoding: identity\r\n"));
}

#[tokio::test]
async fn what_is_all_here_needs_no_end() {
    let (port, asked) = server("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n").await;
    let mut download = direct().download(&url(port), &HeaderMap::new(), Total::Exactly(2)).await.unwrap();
    assert_eq!(download.chunk().await.unwrap().unwrap(), "ok");
    assert_eq!(download.chunk().await.unwrap(), None);
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_byte_now_and_then_is_no_better_than_silence() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n").await;
                while stream.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        }
    });
    let told = Arc::new(Mutex::new(Vec::new()));
    let teller = Arc::clone(&told);
    let client = direct().telling(Arc::new(move |resumed| teller.lock().unwrap().push(resumed)));
    // A day on which even the drops are late makes it silence.
    let is_given_up = |error: &Error| matches!(error, Error::Slow { .. } | Error::Stalled { .. });
    let error = client.read(&url(port), &HeaderMap::new(), 1 << 20).await.map(drop).unwrap_err();
    assert!(is_given_up(&error), "{error}");
    let mut download = client.download(&url(port), &HeaderMap::new(), Total::Exactly(100_000)).await.unwrap();
    let error = loop {
        match download.chunk().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it came"),
            Err(error) => break error,
        }
    };
    assert!(is_given_up(&error), "{error}");
    let told = told.lock().unwrap();
    let numbers: Vec<u32> = told.iter().flatten().map(|resumed| resumed.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5], "{told:?}");
}

#[tokio::test]
async fn what_is_asked_by_the_wrong_protocol_is_told() {
    // What a server for TLS says to who does not encrypt, and the other way round.
    let (port, _) = server("\x15\x03\x01\x00\x02\x02\x16").await;
    let error = read(&direct(), &url(port)).await.unwrap_err().to_string();
    assert!(error.contains("perhaps this port is for https://"), "{error}");
    let go = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    let (port, _) = server(go).await;
    let error = read(&direct(), &url(port)).await.unwrap_err().to_string();
    assert!(error.contains("HTTPS server.") || error.contains("for https://"), "{error}");
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = plain.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
            let _ = stream.read_u8().await;
        }
    });
    let error = read(&direct(), &Url::parse(&format!("https://127.0.0.1:{port}/")).unwrap()).await.unwrap_err();
    assert!(matches!(&error, Error::Tls { .. }) && error.to_string().contains("http://"), "{error}");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = read(&direct(), &url(nobody)).await.unwrap_err().to_string();
    assert!(error.contains("nothing listens there") && !error.contains("os error"), "{error}");
}
