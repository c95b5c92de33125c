//! Public keys of OpenPGP, as `gpg --armor --export` writes them (RFC 9580, 6.2 and 10.1).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
const END: &str = "-----END PGP PUBLIC KEY BLOCK-----";

/// The bytes of one or more armored public keys; whether they are a good key is for gpgv to say.
///
/// # Errors
/// With what would fit.
pub fn parse(text: &str) -> Result<Vec<u8>, String> {
    let wrong =
        || format!("it must be a public key of OpenPGP: {BEGIN} and so on, as \"gpg --armor --export\" writes it");
    let mut rest = text.trim();
    let mut keys = Vec::new();
    while !rest.is_empty() {
        let block = rest.strip_prefix(BEGIN).ok_or_else(wrong)?;
        let (block, after) = block.split_once(END).ok_or_else(wrong)?;
        // Fields of a head, if any, end with an empty line; the sum of the bytes begins with "=".
        let lines = block.lines().map(str::trim).skip(1).skip_while(|line| line.contains(": ")).collect::<Vec<_>>();
        let bytes: String = lines.into_iter().take_while(|line| !line.starts_with('=')).collect();
        let key = STANDARD.decode(bytes).map_err(|_| wrong())?;
        // The first packet is a public key, in the old or in the new format.
        if !key.first().is_some_and(|tag| matches!(tag, 0x98..=0x9b | 0xc6)) {
            return Err(wrong());
        }
        keys.extend(key);
        rest = after.trim_start();
    }
    if keys.is_empty() { Err(wrong()) } else { Ok(keys) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn armor_is_taken_off() {
        let key = format!("{BEGIN}\nComment: some\n\nmDMEAA\nAA\n=abcd\n{END}\n");
        assert_eq!(parse(&key).unwrap(), [0x98, 0x33, 4, 0, 0, 0]);
        assert_eq!(parse(&format!("{key}\n{key}")).unwrap().len(), 12);
        let without = format!("{BEGIN}\n\nmDMEAAAA\n{END}");
        assert_eq!(parse(&without).unwrap().len(), 6);
        let private = key.replace("PUBLIC", "PRIVATE");
        for wrong in ["x", BEGIN, &key.replace("mDME", "!DME"), &key.replace("mDME", "lDME"), &private, &key[..60]] {
            assert!(parse(wrong).unwrap_err().contains("OpenPGP"), "{wrong}");
        }
    }
}
