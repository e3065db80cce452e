//! Keeping out of what a server says what is not ours to show: the token, which some
//! echo in their errors, and the data that decoders quote in theirs.

use std::{borrow::Cow, collections::HashSet};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

const MARK: &str = "[redacted]";

/// A piece of the token as long as this is no accident, and as good as the token:
/// a message may show a part, or be cut in its middle.
const WINDOW: usize = 16;

/// The text as it may be shown: without quoted data, without the token. Before any
/// cut: what is left of a quotation or a token is no longer recognised.
pub(crate) fn fit(text: &str, secret: &str) -> String {
    let text = without_quotations(text);
    // A text is mostly spared the search. A token so short can be any word, and one of other characters is no word.
    let token = secret.trim();
    let is_word = token.len() >= WINDOW && token.bytes().all(of_token);
    if is_word && !may_hold_secret(&text) { text.into_owned() } else { redact(&text, secret) }
}

/// The text without the data that decoders quote. The words around it stay: they
/// tell what is wrong and where.
///
/// - json-iterator (`iter.go`, `ReportError`) shows up to 100 bytes around the place:
///   `found in #10 byte of ...|…|..., bigger context ...|…|...`.
/// - Go's `strconv` and `time` show what they could not parse, and `encoding/json` a
///   number that does not fit.
/// - go-yaml (`decode.go`, `terror`) shows a scalar between backticks, or a whole map
///   that is no key; goccy/go-yaml shows source lines with their numbers.
/// - A URL may carry a password, and `net/url` shows it whole.
pub(crate) fn without_quotations(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    for step in [contexts, quoted_values, yaml_scalars, numbers, map_keys, source_lines, passwords] {
        if let Some(changed) = step(&text) {
            text = Cow::Owned(changed);
        }
    }
    text
}

/// json-iterator's. What it shows may hold its own marks, and may be cut by whoever
/// passed it on, so its end can't be told: everything after the mark goes. Go puts
/// what an error is about before it, so that stays.
fn contexts(text: &str) -> Option<String> {
    const BEGIN: &str = "found in #";
    let begin = find_word(text, BEGIN)?;
    Some(format!("{}found in {MARK}", &text[..begin]))
}

/// A position without regard to case; none in the middle of a character, as the
/// needle is ASCII.
fn find_word(text: &str, needle: &str) -> Option<usize> {
    text.as_bytes().windows(needle.len()).position(|window| window.eq_ignore_ascii_case(needle.as_bytes()))
}

/// Replaces what `inner` takes of the text after each `begin`, where it takes any.
fn after_each(text: &str, begin: &str, inner: impl Fn(&str) -> Option<(usize, usize)>) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    let mut changed = false;
    while let Some(at) = rest.find(begin) {
        let (before, after) = rest.split_at(at + begin.len());
        out.push_str(before);
        rest = after;
        if let Some((from, to)) = inner(after) {
            out.push_str(&after[..from]);
            out.push_str(MARK);
            rest = &after[to..];
            changed = true;
        }
    }
    out.push_str(rest);
    changed.then_some(out)
}

fn quoted_values(text: &str) -> Option<String> {
    let mut out = None;
    for begin in
        [": parsing ", "parsing time ", "cannot parse ", "extra text: ", "invalid duration ", "unmarshal "]
    {
        if let Some(changed) = after_each(out.as_deref().unwrap_or(text), begin, quotation) {
            out = Some(changed);
        }
    }
    out
}

/// The inside of the quotation marks that a text begins with, escaped or not; to the
/// end of the text where they are not closed.
fn quotation(text: &str) -> Option<(usize, usize)> {
    let escapes = text.bytes().take_while(|b| *b == b'\\').count();
    let from = escapes + 1;
    if text.as_bytes().get(escapes) != Some(&b'"') {
        return None;
    }
    let mut backslashes = 0;
    for (at, byte) in text.bytes().enumerate().skip(from) {
        match byte {
            b'\\' => backslashes += 1,
            b'"' if backslashes == escapes => return Some((from, at - escapes)),
            _ => backslashes = 0,
        }
    }
    Some((from, text.len()))
}

fn yaml_scalars(text: &str) -> Option<String> {
    after_each(text, "cannot unmarshal !!", |after| {
        let from = after.find('`')? + 1;
        // Not a tag alone, as of a map, and a backtick of a later sentence.
        if after[..from].contains(char::is_whitespace) && after[..from].split_whitespace().count() > 2 {
            return None;
        }
        Some((from, after[from..].find("` into ").map_or(after.len(), |at| from + at)))
    })
}

fn numbers(text: &str) -> Option<String> {
    after_each(text, "unmarshal number ", |after| {
        let end = after.find(' ').unwrap_or(after.len());
        (!after.starts_with("into ")).then_some((0, end))
    })
}

fn map_keys(text: &str) -> Option<String> {
    after_each(text, "invalid map key: ", |after| Some((0, after.find('\n').unwrap_or(after.len()))))
}

fn source_lines(text: &str) -> Option<String> {
    let source = |line: &str| {
        let number = line.trim_start_matches(['>', ' ']);
        let bar = number.trim_start_matches(|c: char| c.is_ascii_digit());
        let inner = bar.trim_start_matches(' ').strip_prefix('|')?;
        (bar.len() < number.len()).then(|| line.len() - inner.len())
    };
    if !text.contains('|') || text.lines().all(|line| source(line).is_none()) {
        return None;
    }
    let line = |line: &str| match source(line) {
        Some(at) => format!("{} {MARK}", &line[..at]),
        None => line.to_owned(),
    };
    Some(text.split('\n').map(line).collect::<Vec<_>>().join("\n"))
}

fn passwords(text: &str) -> Option<String> {
    after_each(text, "://", |after| {
        let host = after.find(|c: char| c.is_whitespace() || "/?#\"'`<>".contains(c)).unwrap_or(after.len());
        after[..host].rfind('@').map(|at| (0, at))
    })
}

/// Whether a text has any word that could be a piece of a token: most have none,
/// and are spared the search on every poll.
fn may_hold_secret(text: &str) -> bool {
    text.as_bytes().split(|b| !of_token(*b)).any(|word| word.len() >= WINDOW)
}

/// Whether a usual token, or base64 of any, has this character.
fn of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/=_-.~!".contains(&byte) || !byte.is_ascii()
}

/// The text without the token, pieces of it, or either as base64.
pub(crate) fn redact(text: &str, secret: &str) -> String {
    Pieces::of(&forms(secret.trim())).redact(text)
}

/// What must not be shown, cut into pieces once for many texts.
pub(crate) struct Pieces<'f>(Vec<(usize, HashSet<&'f [u8]>)>);

impl<'f> Pieces<'f> {
    /// The pieces of these [`forms`].
    pub(crate) fn of(forms: &'f [String]) -> Self {
        let pieces = forms.iter().map(|form| {
            let window = WINDOW.min(form.len());
            (window, form.as_bytes().windows(window.max(1)).collect())
        });
        Self(pieces.filter(|(window, _)| *window > 0).collect())
    }

    /// See [`redact`].
    pub(crate) fn redact(&self, text: &str) -> String {
        let mut hidden = vec![false; text.len()];
        for (window, pieces) in &self.0 {
            for (at, piece) in text.as_bytes().windows(*window).enumerate() {
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
}

/// The secret, and its base64 wherever it begins in a longer text (`Bearer …`).
pub(crate) fn forms(secret: &str) -> Vec<String> {
    if secret.is_empty() {
        return Vec::new();
    }
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
    fn a_token_of_any_characters_is_redacted() {
        for token in ["secret:of|many@small,words", "{\"a\":\"b\",\"c\":\"d\"}", "tökén that is ten words"]
        {
            let told = fit(&format!("denied for {token}, and more"), token);
            assert_eq!(told, "denied for [redacted], and more");
        }
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

    #[test]
    fn what_decoders_quote_is_redacted_and_the_rest_stays() {
        for (said, shown) in [
            (
                "Secret in version \"v1\" cannot be handled as a Secret: v1.Secret.Data: base64Codec: invalid input, \
                 error found in #10 byte of ...|tes\":{\"p\":\"xyz\"}|..., bigger context ...|{\"apiVersion\":\"v1\",\"data\":{\"a\":\"xyz\"}|...",
                "Secret in version \"v1\" cannot be handled as a Secret: v1.Secret.Data: base64Codec: invalid input, \
                 error found in [redacted]",
            ),
            (
                "a: Error Found in #2 byte of ...|xyz|..., bigger context ...|xyz|... (retrying)",
                "a: Error found in [redacted]",
            ),
            ("found in #2 byte of ...|xyz|..., bigger context ...|a|...xyz|...; b", "found in [redacted]"),
            ("found in #2 byte of ...|xyz|..., bigger context ...|xyz", "found in [redacted]"),
            ("found in #2 byte of ...|xyz", "found in [redacted]"),
            (
                "found in #1 byte of ...|xyz|..., bigger context ...|xyz|...; found in #3 byte of ...|xyz|..., bigger context ...|xyz|...",
                "found in [redacted]",
            ),
            (
                "strconv.ParseInt: parsing \"xyz\": invalid syntax",
                "strconv.ParseInt: parsing \"[redacted]\": invalid syntax",
            ),
            (
                r#"error calling int: strconv.Atoi: parsing \"x\\\"yz\": invalid syntax"#,
                r#"error calling int: strconv.Atoi: parsing \"[redacted]\": invalid syntax"#,
            ),
            ("strconv.ParseBool: parsing \"xyz", "strconv.ParseBool: parsing \"[redacted]"),
            (
                "parsing time \"xyz\" as \"2006-01-02\": cannot parse \"xyz\" as \"2006\"",
                "parsing time \"[redacted]\" as \"2006-01-02\": cannot parse \"[redacted]\" as \"2006\"",
            ),
            ("time: invalid duration \"xyz\"", "time: invalid duration \"[redacted]\""),
            (
                "json: invalid use of ,string struct tag, trying to unmarshal \"xyz\" into int",
                "json: invalid use of ,string struct tag, trying to unmarshal \"[redacted]\" into int",
            ),
            (
                "json: cannot unmarshal number 4711.5 into Go struct field ContainerPort.containerPort of type int32",
                "json: cannot unmarshal number [redacted] into Go struct field ContainerPort.containerPort of type int32",
            ),
            (
                "yaml: unmarshal errors:\n  line 3: cannot unmarshal !!str `xyz` into int\n  line 4: cannot unmarshal !!map into string",
                "yaml: unmarshal errors:\n  line 3: cannot unmarshal !!str `[redacted]` into int\n  line 4: cannot unmarshal !!map into string",
            ),
            (
                "yaml: invalid map key: map[string]interface {}{\"xyz\":1}",
                "yaml: invalid map key: [redacted]",
            ),
            (
                "[2:1] unexpected key name\n   1 | a: xyz\n>  2 | password: xyz\n       ^\n",
                "[2:1] unexpected key name\n   1 | [redacted]\n>  2 | [redacted]\n       ^\n",
            ),
            (
                "parse \"https://me:xyz@charts.example.com/a\": net/url: invalid userinfo",
                "parse \"https://[redacted]@charts.example.com/a\": net/url: invalid userinfo",
            ),
        ] {
            assert!(!shown.contains("xyz"));
            assert_eq!(without_quotations(said), shown);
            assert_eq!(without_quotations(shown), shown, "once is enough");
        }
    }

    #[test]
    fn harmless_errors_stay_as_they_are() {
        for said in [
            "illegal base64 data at input byte 4",
            "invalid character 'x' looking for beginning of value",
            "json: cannot unmarshal string into Go struct field Container.spec.template.spec.containers.ports of type int32",
            "json: cannot unmarshal number into Go struct field A.b of type string",
            "strict decoding error: unknown field \"spec.replica\", duplicate field \"data.a\"",
            "error converting YAML to JSON: yaml: line 12: mapping values are not allowed in this context",
            "Helm upgrade failed for release shop/checkout with chart checkout@1.4.0: cannot patch \"checkout\" with kind Deployment: Deployment.apps \"checkout\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "failed to fetch https://charts.example.com/index.yaml : 404 Not Found",
            "a table | of words",
        ] {
            assert!(matches!(without_quotations(said), Cow::Borrowed(same) if same == said), "{said}");
        }
    }

    proptest! {
        #[test]
        fn any_text_has_an_answer(text in "(found in #|[|.]{1,4}|bigger context ...[|]|: parsing |\"|`|://|@|unmarshal (!!|number )|\\PC|\n){0,30}") {
            let once = without_quotations(&text).into_owned();
            prop_assert!(!once.contains("found in #"));
            let _ = fit(&once, "token");
        }

        #[test]
        fn never_what_json_iterator_quotes(before in "\\PC{0,20}", parsing in "[a-z|.]{0,20}", context in "[a-z|. ]{0,100}", cut in 0..300usize) {
            let secret = "S3CR3T";
            let text = format!("{before}, error found in #9 byte of ...|{parsing}{secret}|..., bigger context ...|{context}{secret}|...");
            let cut = text.floor_char_boundary(cut);
            prop_assert!(!without_quotations(&text).contains(secret));
            prop_assert!(!without_quotations(&text[..cut]).contains(secret));
        }

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
