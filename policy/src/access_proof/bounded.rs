//! Bytes of at most a fixed length, base64 in JSON. The bound holds however they were made, so that no check has to repeat it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// At most `MAX` bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounded<const MAX: usize>(Vec<u8>);

impl<const MAX: usize> TryFrom<Vec<u8>> for Bounded<MAX> {
    /// How many they were.
    type Error = usize;

    fn try_from(bytes: Vec<u8>) -> Result<Self, usize> {
        if bytes.len() <= MAX { Ok(Self(bytes)) } else { Err(bytes.len()) }
    }
}

impl<const MAX: usize> AsRef<[u8]> for Bounded<MAX> {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl<const MAX: usize> Serialize for Bounded<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Bounded<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.len() > MAX.div_ceil(3) * 4 {
            return Err(D::Error::custom(format!("longer than {MAX} bytes")));
        }
        let bytes = STANDARD.decode(text).map_err(D::Error::custom)?;
        Self::try_from(bytes).map_err(|given| D::Error::custom(format!("{given} bytes; at most {MAX}")))
    }
}
