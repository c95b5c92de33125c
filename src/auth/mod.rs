//! Who is asking: the trust store, the server's certificate, peer credentials, the rustls verifier.
