//! What holds of every text that leaves the product, whatever came in.

use std::collections::HashSet;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use jiff::Timestamp;

/// The token with which everything is asked: 48 characters, as no text has them by accident.
pub(crate) const TOKEN: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6InRoZS1rZXktb2YtYSJ9";

/// A piece of a token so long is no accident, as `kubernetes` has it.
pub(crate) const WINDOW: usize = 16;

/// The start of everything that has one.
pub(crate) fn start() -> Timestamp {
    Timestamp::from_second(1_795_462_000).unwrap()
}

/// What is said of a field: not empty, at most 1,024 bytes, without control characters.
pub(crate) fn is_detail(text: &str) {
    assert!((1..=verdict::MESSAGE_BYTES).contains(&text.len()), "{} bytes: {text:?}", text.len());
    assert!(!text.contains(char::is_control), "control characters: {text:?}");
}

/// What stands in an answer: the same, as one sentence.
pub(crate) fn is_message(text: &str) {
    is_detail(text);
    assert_eq!(verdict::clean(text), text, "it is cleaned already");
}

/// What must be in no text: every piece of a token, as it is or as base64, alone or after `Bearer`.
pub(crate) struct Untold<'a> {
    token: &'a str,
    pieces: HashSet<Vec<u8>>,
}

impl<'a> Untold<'a> {
    pub(crate) fn of(token: &'a str) -> Self {
        let mut pieces: HashSet<Vec<u8>> = token.as_bytes().windows(WINDOW).map(<[u8]>::to_vec).collect();
        for before in ["", "Bearer "] {
            let encoded = STANDARD_NO_PAD.encode(format!("{before}{token}"));
            // Characters at the edges hold bits of what stands around, too.
            let inner = encoded.get((before.len() * 4).div_ceil(3)..encoded.len().saturating_sub(1));
            pieces.extend(inner.unwrap_or_default().as_bytes().windows(WINDOW).map(<[u8]>::to_vec));
        }
        Self { token, pieces }
    }

    pub(crate) fn is_not_in(&self, text: &str) {
        let told = text.as_bytes().windows(WINDOW).find(|piece| self.pieces.contains(*piece));
        assert!(
            told.is_none(),
            "of the token {:?} is {:?} in {text:?}",
            self.token,
            String::from_utf8_lossy(told.unwrap())
        );
    }
}

/// The text is told by none of the parts of [`TOKEN`].
pub(crate) fn tells_no_token(text: &str) {
    // Most are shorter than any piece, and spared the search.
    if text.len() >= WINDOW {
        Untold::of(TOKEN).is_not_in(text);
    }
}
