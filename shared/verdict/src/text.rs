//! Texts that come from a cluster and go to a person.

/// How long a message may be, in bytes: it is stored, shown in a list, and the
/// cause of a failed execution.
pub const MESSAGE_BYTES: usize = 1024;

/// API servers quote neighbouring data after these words, secrets included
/// (Kubernetes `serializer/json`: the decoder's error with its context).
const QUOTING: &str = "error found in #";

/// How long a cluster's words may be beside others in one message, in bytes.
const PART_BYTES: usize = 600;

/// What stands where something was redacted. [`clean`] leaves a text alone that
/// has it already, so that a sentence around a cleaned part loses nothing.
const REDACTED: &str = " [redacted]";

/// Makes a text fit for a message: what follows a decoder's quotation mark is
/// redacted, control characters become spaces, runs of white space shrink to
/// one, and then it is cut to [`MESSAGE_BYTES`] at a character's edge.
#[must_use]
pub fn clean(text: &str) -> String {
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
    // Not before: other white space than a space would hide the mark.
    if let Some(end) = quotation(&out) {
        out.truncate(end);
        out.push_str(REDACTED);
    }
    cut(out, MESSAGE_BYTES)
}

/// A cluster's words as a part of a message: cleaned, and short enough that
/// what is said around them stays.
pub(crate) fn said(text: &str) -> String {
    cut(clean(text), PART_BYTES)
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

/// Where the first quotation mark ends behind which nothing was redacted yet.
fn quotation(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    (0..bytes.len().saturating_sub(QUOTING.len() - 1)).map(|start| start + QUOTING.len()).find(|end| {
        bytes[end - QUOTING.len()..*end].eq_ignore_ascii_case(QUOTING.as_bytes())
            && !bytes[*end..].starts_with(REDACTED.as_bytes())
    })
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
    fn white_space_hides_no_quotation() {
        let text = "bad:\terror\nfound  in\0\0#10 byte of ...|s3cr3t|...";
        assert_eq!(clean(text), "bad: error found in # [redacted]");
    }

    #[test]
    fn what_is_said_around_a_cleaned_part_stays() {
        let part = clean("bad: error found in #10 byte of ...|s3cr3t");
        let whole = clean(&format!("{part}; look there; ERROR FOUND IN #2 s3cr3t"));
        assert_eq!(whole, "bad: error found in # [redacted]; look there; ERROR FOUND IN # [redacted]");
    }

    #[test]
    fn a_long_text_is_cut_at_a_characters_edge() {
        let cut = clean(&"ä".repeat(2000));
        assert!(cut.len() <= MESSAGE_BYTES && cut.ends_with('…'));
    }
}
