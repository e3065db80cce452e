//! Keeping the token out of what a server says: some echo it in their errors.

use std::collections::HashSet;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

const MARK: &str = "[redacted]";

/// A piece of the token as long as this is no accident, and as good as the token:
/// a message may show a part, or be cut in its middle.
const WINDOW: usize = 16;

/// Whether a text has any word that could be a piece of a token: most have none,
/// and are spared the search on every poll.
pub(crate) fn may_hold_secret(text: &str) -> bool {
    let of_token = |b: &u8| b.is_ascii_alphanumeric() || b"+/=_-.~!".contains(b) || !b.is_ascii();
    text.as_bytes().split(|b| !of_token(b)).any(|word| word.len() >= WINDOW)
}

/// The text without the token, pieces of it, or either as base64.
pub(crate) fn redact(text: &str, secret: &str) -> String {
    let secret = secret.trim();
    if secret.is_empty() {
        return text.to_owned();
    }
    let mut hidden = vec![false; text.len()];
    for form in forms(secret) {
        let window = WINDOW.min(form.len());
        if window == 0 {
            continue;
        }
        let pieces: HashSet<&[u8]> = form.as_bytes().windows(window).collect();
        for (at, piece) in text.as_bytes().windows(window).enumerate() {
            if pieces.contains(piece) {
                hidden[at..at + window].fill(true);
            }
        }
    }
    let mut out = String::with_capacity(text.len());
    let mut within = false;
    for (at, c) in text.char_indices() {
        // A token that is no ASCII may match from the middle of a character.
        let hide = hidden[at..at + c.len_utf8()].contains(&true);
        match (hide, within) {
            (true, false) => out.push_str(MARK),
            (true, true) => {}
            (false, _) => out.push(c),
        }
        within = hide;
    }
    out
}

/// The secret, and its base64 wherever it begins in a longer text (`Bearer …`).
fn forms(secret: &str) -> Vec<String> {
    let mut forms = vec![secret.to_owned()];
    for skipped in 0..3 {
        let mut bytes = vec![0; skipped];
        bytes.extend_from_slice(secret.as_bytes());
        // Characters that also hold bits of what stands before or after.
        let before = [0, 2, 3][skipped];
        let after = usize::from(bytes.len() % 3 != 0);
        for encoded in [STANDARD_NO_PAD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)] {
            if let Some(inner) = encoded.get(before..encoded.len() - after)
                && inner.len() >= 6
            {
                forms.push(inner.to_owned());
            }
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQifQ.c2lnbmF0dXJl-_x";

    #[test]
    fn a_text_is_searched_only_where_it_could_hold_a_piece() {
        assert!(!may_hold_secret("Helm upgrade succeeded for release apps/demo.v2 with chart demo@1.1.0"));
        assert!(may_hold_secret(&format!("denied for {}", &TOKEN[5..30])));
    }

    #[test]
    fn the_token_its_pieces_and_its_base64_are_redacted() {
        for echoed in [
            TOKEN.to_owned(),
            TOKEN[..30].to_owned(),
            TOKEN[40..].to_owned(),
            STANDARD.encode(TOKEN),
            URL_SAFE_NO_PAD.encode(TOKEN),
            STANDARD.encode(format!("Bearer {TOKEN}")),
            STANDARD.encode(format!("Authorization: Bearer {TOKEN}\r\n")),
        ] {
            let told = redact(&format!("bad token <{echoed}>!"), TOKEN);
            assert!(told.starts_with("bad token <") && told.ends_with(">!") && told.contains(MARK), "{told}");
            for form in forms(TOKEN) {
                let left =
                    form.as_bytes().windows(WINDOW).any(|w| told.as_bytes().windows(WINDOW).any(|t| t == w));
                assert!(!left, "{told}");
            }
        }
    }

    #[test]
    fn other_words_stay() {
        let text = "secrets is forbidden: User \"x\" cannot list resource \"secrets\" – 403";
        assert_eq!(redact(text, TOKEN), text);
        assert_eq!(redact(text, ""), text);
        assert_eq!(
            redact("a short one: s3cr3t, as base64 czNjcjN0", "s3cr3t"),
            "a short one: [redacted], as base64 [redacted]"
        );
    }

    proptest! {
        #[test]
        fn never_the_token(before in "\\PC{0,40}", token in "[ -~ä-ü]{1,60}", after in "\\PC{0,40}", k in 0..3usize) {
            let token = token.trim();
            prop_assume!(!token.is_empty() && !MARK.contains(token));
            let told = redact(&format!("{before}{token}{after}"), token);
            prop_assert!(!told.contains(token));
            if token.len() >= 16 {
                let encoded = STANDARD.encode(format!("{}{token}{after}", "x".repeat(k)));
                let told = redact(&format!("{before}{encoded}"), token);
                prop_assert!(!told.contains(&encoded));
            }
        }
    }
}
