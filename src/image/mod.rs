//! Images: the store, unpacking of untrusted archives, metadata.
