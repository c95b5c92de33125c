//! Random identifiers of interfaces.

use ring::rand::{SecureRandom, SystemRandom};

use super::Error;
use crate::sys::netlink::MacAddr;

/// Fills `bytes` from the kernel's generator.
pub(super) fn fill(bytes: &mut [u8]) -> Result<(), Error> {
    SystemRandom::new().fill(bytes).map_err(|_| Error::Random)
}

/// A hardware address `00:16:3e:xx:xx:xx`, the range that LXD's instances have.
///
/// # Errors
/// [`Error::Random`].
pub fn random_mac() -> Result<MacAddr, Error> {
    let mut bytes = [0x00, 0x16, 0x3e, 0, 0, 0];
    fill(&mut bytes[3..])?;
    Ok(MacAddr(bytes))
}

/// A name for the host's end of a veth pair: `veth` and eight hexadecimal digits.
///
/// # Errors
/// [`Error::Random`].
pub fn random_veth() -> Result<String, Error> {
    let mut bytes = [0; 4];
    fill(&mut bytes)?;
    Ok(format!("veth{}", hex::encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel() {
        let (one, other) = (random_veth().unwrap(), random_veth().unwrap());
        assert!(one.len() == 12 && one.starts_with("veth") && one != other);
        assert!(random_mac().unwrap().to_string().starts_with("00:16:3e:"));
    }
}
