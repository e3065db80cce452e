//! Sealing tokens under a key that lies in a file of its own: the store, copied
//! alone, opens no cluster. Whoever can read both files can.

use std::{
    io::{Read as _, Write as _},
    path::Path,
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    rand,
};
use zeroize::Zeroizing;

use super::{OpenError, files};

const KEY_BYTES: usize = 32;

/// AES-256-GCM with a random nonce each time, which stands before what is sealed.
pub(super) struct Seal(RandomizedNonceKey);

impl Seal {
    fn of(key: &[u8]) -> Option<Self> {
        RandomizedNonceKey::new(&AES_256_GCM, key).ok().map(Self)
    }

    /// The key in this file; `None` where there is none in it.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, OpenError> {
        let Some(file) = files::existing(path)? else { return Ok(None) };
        let mut key = Zeroizing::new(Vec::with_capacity(KEY_BYTES + 1));
        file.take(KEY_BYTES as u64 + 1).read_to_end(&mut key).map_err(OpenError::io(path))?;
        Ok(Self::of(&key))
    }

    /// The same, or a new one.
    pub(super) fn read_or_make(path: &Path) -> Result<Self, OpenError> {
        if let Some(seal) = Self::read(path)? {
            return Ok(seal);
        }
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(&mut *key).map_err(|_| OpenError::NoRandomness)?;
        files::whole(path, |mut file| {
            file.write_all(&*key).and_then(|()| file.sync_all()).map_err(OpenError::io(path))
        })?;
        Self::of(&*key).ok_or(OpenError::NoRandomness)
    }

    /// Seals a text for one place, so that it opens in no other.
    pub(super) fn close(&self, place: &str, mut text: Zeroizing<Vec<u8>>) -> Option<Vec<u8>> {
        let tag = {
            let (nonce, tag) = self.0.seal_in_place_separate_tag(Aad::from(place), &mut text).ok()?;
            (*nonce.as_ref(), tag)
        };
        Some([tag.0.as_slice(), &text, tag.1.as_ref()].concat())
    }

    /// What was sealed for this place; `None` where it was not, or under another key.
    pub(super) fn open(&self, place: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = Zeroizing::new(text.to_vec());
        let length = self.0.open_in_place(nonce, Aad::from(place), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }
}
