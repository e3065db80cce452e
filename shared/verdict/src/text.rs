//! Texts that come from a cluster and go to a person.

/// How long a message may be, in bytes: it is stored, shown in a list, and the
/// cause of a failed execution.
pub const MESSAGE_BYTES: usize = 1024;

/// API servers quote neighbouring data after these words, secrets included
/// (Kubernetes `serializer/json`: the decoder's error with its context).
const QUOTING: &str = "error found in #";

/// Makes a text fit for a message: control characters become spaces, what
/// follows a decoder's quotation mark is redacted, runs of white space shrink to
/// one, and then it is cut to [`MESSAGE_BYTES`] at a character's edge.
#[must_use]
pub fn clean(text: &str) -> String {
    let quoted = find_ignoring_case(text, QUOTING);
    let text = quoted.map_or(text, |at| &text[..at + QUOTING.len()]);
    let mut out = String::with_capacity(text.len().min(MESSAGE_BYTES) + 16);
    for word in text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|w| !w.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
        if out.len() > MESSAGE_BYTES {
            break;
        }
    }
    if quoted.is_some() {
        out.push_str(" [redacted]");
    }
    cut(out, MESSAGE_BYTES)
}

/// Cuts to a number of bytes at a character's edge, marking the cut.
pub(crate) fn cut(mut text: String, bytes: usize) -> String {
    const MARK: &str = "…";
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes.saturating_sub(MARK.len())));
        text.push_str(MARK);
    }
    text
}

fn find_ignoring_case(text: &str, ascii: &str) -> Option<usize> {
    text.as_bytes().windows(ascii.len()).position(|w| w.eq_ignore_ascii_case(ascii.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_go_and_words_stay() {
        assert_eq!(clean("a\u{1b}[31m\nb\t c\0"), "a [31m b c");
    }

    #[test]
    fn what_a_decoder_quotes_is_redacted_before_the_cut() {
        let text = "json: cannot unmarshal, Error found in #10 byte of ...|token\":\"s3cr3t";
        assert_eq!(clean(text), "json: cannot unmarshal, Error found in # [redacted]");
    }

    #[test]
    fn a_long_text_is_cut_at_a_characters_edge() {
        let cut = clean(&"ä".repeat(2000));
        assert!(cut.len() <= MESSAGE_BYTES && cut.ends_with('…'));
    }
}
