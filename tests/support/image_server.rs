//! A plain HTTPS server of files, as image servers are, that can be made to misbehave.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What goes wrong with a file.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection ends after so many bytes of each answer.
    Cut(usize),
    /// The same, once.
    CutOnce(usize),
    /// Nothing comes after so many bytes, until the server is dropped.
    Stall(usize),
    /// A byte now and then.
    Drip,
    /// Nothing comes until the server is mended, then all of it.
    Held,
    /// It says that it has so many bytes.
    Length(usize),
    /// One byte in the middle is another one.
    Flip,
    /// It is somewhere else.
    Redirect(String),
    /// This status, and nothing else.
    Status(u16),
    /// The same, once.
    StatusOnce(u16),
    /// Bytes without end, in chunks.
    Endless,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

struct Shared {
    dir: PathBuf,
    faults: Mutex<BTreeMap<String, Fault>>,
    asked: Mutex<Vec<Asked>>,
    /// Fields of the answer for an address.
    fields: Mutex<BTreeMap<String, Vec<(String, String)>>>,
    ends: AtomicBool,
    ranges: AtomicBool,
    tags: AtomicBool,
}

/// The server; it ends with this.
pub struct ImageServer {
    pub url: String,
    pub port: u16,
    at: String,
    /// The certificate of its authority, which is its own.
    pub ca: PathBuf,
    shared: Arc<Shared>,
}

impl ImageServer {
    /// Serves what is in `dir`; the certificate lies in `place`.
    pub fn start(dir: &Path, place: &Path) -> Self {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        Self::certified("127.0.0.1", dir, place, &made.cert.pem(), &made.signing_key.serialize_pem())
    }

    /// The same at this address, with a certificate and its key, PEM.
    pub fn certified(at: &str, dir: &Path, place: &Path, certificate: &str, key: &str) -> Self {
        let ca = place.join(format!("ca-{}.pem", uuid::Uuid::new_v4()));
        std::fs::write(&ca, certificate).unwrap();
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        Self::listening(at, dir, ca, Some(Arc::new(config)))
    }

    /// One that does not encrypt.
    pub fn plain(dir: &Path) -> Self {
        Self::listening("127.0.0.1", dir, PathBuf::new(), None)
    }

    fn listening(at: &str, dir: &Path, ca: PathBuf, config: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind((at, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            faults: Mutex::default(),
            asked: Mutex::default(),
            fields: Mutex::default(),
            ends: AtomicBool::new(false),
            ranges: AtomicBool::new(true),
            tags: AtomicBool::new(true),
        });
        let (serving, scheme) = (Arc::clone(&shared), if config.is_some() { "https" } else { "http" });
        let host = if at == "127.0.0.1" { "localhost" } else { at };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.ends.load(Ordering::Relaxed) {
                    return;
                }
                let (shared, config, Ok(stream)) = (Arc::clone(&serving), config.clone(), stream) else { return };
                std::thread::spawn(move || drop(serve(&shared, config, stream)));
            }
        });
        Self { url: format!("{scheme}://{host}:{port}"), at: at.to_owned(), port, ca, shared }
    }

    /// The certificate, PEM.
    pub fn certificate(&self) -> String {
        std::fs::read_to_string(&self.ca).unwrap()
    }

    /// From now on this goes wrong with a path.
    pub fn fault(&self, path: &str, fault: Fault) {
        self.shared.faults.lock().unwrap().insert(path.to_owned(), fault);
    }

    /// Nothing goes wrong any more.
    pub fn mend(&self) {
        self.shared.faults.lock().unwrap().clear();
    }

    /// Answers for a path have these fields.
    pub fn field(&self, path: &str, name: &str, value: &str) {
        let mut fields = self.shared.fields.lock().unwrap();
        fields.entry(path.to_owned()).or_default().push((name.to_owned(), value.to_owned()));
    }

    /// Whether parts of a file can be had.
    pub fn ranges(&self, can: bool) {
        self.shared.ranges.store(can, Ordering::Relaxed);
    }

    /// Whether it says which version of a file it gives.
    pub fn tags(&self, does: bool) {
        self.shared.tags.store(does, Ordering::Relaxed);
    }

    /// What was asked since the last time.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.shared.asked.lock().unwrap())
    }

    /// What of this path was asked, without forgetting it.
    pub fn count(&self, path: &str) -> usize {
        self.shared.asked.lock().unwrap().iter().filter(|asked| asked.path.ends_with(path)).count()
    }
}

impl Drop for ImageServer {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        // The listener sees it with its next connection.
        let _ = TcpStream::connect((self.at.as_str(), self.port));
    }
}

fn serve(shared: &Shared, config: Option<Arc<ServerConfig>>, mut stream: TcpStream) -> std::io::Result<()> {
    let Some(config) = config else {
        while answer(shared, &mut stream)? {}
        return Ok(());
    };
    let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    // Go's client keeps its connection.
    while answer(shared, &mut stream)? {}
    stream.conn.send_close_notify();
    stream.flush()
}

/// One request; whether the connection stays.
fn answer(shared: &Shared, stream: &mut (impl Read + Write)) -> std::io::Result<bool> {
    let mut reader = BufReader::with_capacity(1, &mut *stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(false);
        }
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    drop(reader);
    let mut words = lines[0].split(' ');
    let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let headers: BTreeMap<String, String> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let asked = Asked { method: method.clone(), path: path.clone(), headers: headers.clone() };
    shared.asked.lock().unwrap().push(asked);
    let mut fault = shared.faults.lock().unwrap().get(&path).cloned();
    if let Some(Fault::CutOnce(count)) = fault {
        shared.faults.lock().unwrap().remove(&path);
        fault = Some(Fault::Cut(count));
    }
    let is_held = || matches!(shared.faults.lock().unwrap().get(&path), Some(Fault::Held));
    while is_held() && !shared.ends.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
    }
    if let Some(Fault::StatusOnce(code)) = fault {
        shared.faults.lock().unwrap().remove(&path);
        fault = Some(Fault::Status(code));
    }
    let mut fields: Vec<(String, String)> = shared.fields.lock().unwrap().get(&path).cloned().unwrap_or_default();
    let read = std::fs::read(shared.dir.join(path.trim_start_matches('/')));
    let (mut status, mut body) = match read {
        Ok(body) => (200, body),
        Err(_) if !fields.is_empty() => (200, Vec::new()),
        Err(_) => (404, Vec::new()),
    };
    match &fault {
        Some(Fault::Redirect(to)) => {
            fields.push(("Location".to_owned(), to.clone()));
            (status, body) = (302, Vec::new());
        }
        Some(Fault::Status(code)) => (status, body) = (*code, Vec::new()),
        Some(Fault::Flip) => {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        }
        _ => {}
    }
    let tag = format!("\"{}\"", hex::encode(ring::digest::digest(&ring::digest::SHA256, &body)));
    if status == 200 {
        if headers.get("if-none-match") == Some(&tag) {
            (status, body) = (304, Vec::new());
        }
        let range =
            headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        if let Some(from) = range
            .filter(|_| shared.ranges.load(Ordering::Relaxed) && headers.get("if-range").is_none_or(|of| *of == tag))
        {
            fields.push(("Content-Range".to_owned(), format!("bytes {from}-{}/{}", body.len() - 1, body.len())));
            (status, body) = (206, body.split_off(from));
        }
        if shared.tags.load(Ordering::Relaxed) {
            fields.push(("ETag".to_owned(), tag));
        }
    }
    let length = match fault {
        Some(Fault::Length(length)) => length,
        _ => body.len(),
    };
    let chunked = matches!(fault, Some(Fault::Endless));
    let framing = if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {length}") };
    let mut head = format!("HTTP/1.1 {status} x\r\n{framing}\r\n");
    for (name, value) in &fields {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if method == "HEAD" {
        return Ok(true);
    }
    match fault {
        Some(Fault::Cut(count)) => {
            stream.write_all(&body[..count.min(body.len())])?;
            stream.flush()?;
            return Ok(false);
        }
        Some(Fault::Stall(count)) => {
            stream.write_all(&body[..count.min(body.len())])?;
            stream.flush()?;
            while !shared.ends.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(50));
            }
            return Ok(false);
        }
        Some(Fault::Drip) => {
            for byte in body.chunks(1) {
                if shared.ends.load(Ordering::Relaxed) {
                    break;
                }
                stream.write_all(byte)?;
                stream.flush()?;
                std::thread::sleep(Duration::from_millis(20));
            }
            return Ok(false);
        }
        Some(Fault::Endless) => loop {
            stream.write_all(b"10000\r\n")?;
            stream.write_all(&[b' '; 0x10000])?;
            stream.write_all(b"\r\n")?;
        },
        _ => stream.write_all(&body)?,
    }
    stream.flush()?;
    Ok(length == body.len())
}
