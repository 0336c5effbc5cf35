//! Random bytes of the kernel: challenges, ids, key seeds. Must not fall back to anything weaker.

use thiserror::Error;

/// The kernel gave no random bytes; nothing may go on without them.
#[derive(Debug, Error)]
#[error("the kernel gave no random bytes: {0}")]
pub struct NoRandomness(#[from] getrandom::Error);

/// `N` random bytes from getrandom(2).
pub fn bytes<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// `N` random bytes as 2 × `N` hex digits: 16 bytes for what must not be guessed, 5 for an id that people type.
pub fn hex<const N: usize>() -> Result<String, NoRandomness> {
    Ok(bytes::<N>()?.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_have_the_length_asked_for() -> Result<(), NoRandomness> {
        let ids: std::collections::BTreeSet<String> = (0..1000).map(|_| hex::<16>()).collect::<Result<_, _>>()?;
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())));
        Ok(())
    }
}
