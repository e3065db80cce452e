//! A Helm release as it lies in its secret: base64 (Kubernetes) of base64 (Helm)
//! of gzip of JSON; the oldest ones without gzip. Read as a stream, so that what a
//! payload unpacks to is never in memory at once, and bounded at both ends.

use std::{
    fmt,
    io::{self, BufRead, BufReader, Read},
};

use base64::{engine::general_purpose::STANDARD, read::DecoderReader};
use flate2::bufread::GzDecoder;
use serde::Deserialize;
use serde_json::error::Category;
use verdict::{
    Release, Values,
    plain::object::{Chart, Info},
};

/// A secret holds 1 MiB at most (Kubernetes' `MaxSecretSize`); twice that is no
/// longer one.
pub(crate) const PACKED_BYTES: u64 = 2 * 1024 * 1024;

/// Charts with large files reach a few MiB. Far above is a gzip bomb.
pub(crate) const UNPACKED_BYTES: u64 = 16 * 1024 * 1024;

/// The user's values alone are kept, as text, until what is expected was looked up
/// in them. Helm's own tools fail on values near this size.
const VALUES_BYTES: usize = 1024 * 1024;

/// How gzip begins; Helm tells by it, too (`pkg/storage/driver/util.go`).
const GZIP: [u8; 3] = [0x1f, 0x8b, 0x08];

/// Why a payload can't be read. Never quotes what was read: values hold passwords.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    TooLargePacked,
    TooLargeUnpacked,
    ValuesTooLarge,
    BrokenBase64,
    BrokenGzip,
    EndsEarly,
    BrokenJson { line: usize, column: usize },
    OtherShape { line: usize, column: usize },
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLargePacked => write!(f, "is larger than {} MiB", PACKED_BYTES >> 20),
            Self::TooLargeUnpacked => write!(f, "unpacks to more than {} MiB", UNPACKED_BYTES >> 20),
            Self::ValuesTooLarge => write!(f, "has more than {} KiB of values", VALUES_BYTES >> 10),
            Self::BrokenBase64 => f.write_str("is broken base64"),
            Self::BrokenGzip => f.write_str("is broken gzip"),
            Self::EndsEarly => f.write_str("ends in the middle"),
            Self::BrokenJson { line, column } => {
                write!(f, "is broken JSON (at line {line}, column {column})")
            }
            Self::OtherShape { line, column } => {
                write!(f, "is no Helm release (at line {line}, column {column})")
            }
        }
    }
}

impl std::error::Error for Unreadable {}

/// The release of a secret's `data.release`.
pub(crate) fn unpack(data: &[u8]) -> Result<Release, Unreadable> {
    let secret = Marked { inner: DecoderReader::new(data, &STANDARD), why: Unreadable::BrokenBase64 };
    let helm = Marked { inner: DecoderReader::new(secret, &STANDARD), why: Unreadable::BrokenBase64 };
    let mut packed =
        BufReader::new(Bounded { inner: helm, left: PACKED_BYTES, why: Unreadable::TooLargePacked });
    let is_gzip = starts_with_gzip(&mut packed)?;
    if is_gzip {
        let unpacked = Marked { inner: GzDecoder::new(packed), why: Unreadable::BrokenGzip };
        parse(Bounded { inner: unpacked, left: UNPACKED_BYTES, why: Unreadable::TooLargeUnpacked })
    } else {
        parse(packed)
    }
}

fn starts_with_gzip(packed: &mut impl BufRead) -> Result<bool, Unreadable> {
    // The decoder fills whole chunks, so three bytes come at once or never.
    let start = packed.fill_buf().map_err(|e| reason(&e).unwrap_or(Unreadable::EndsEarly))?;
    Ok(start.starts_with(&GZIP))
}

fn parse(json: impl Read) -> Result<Release, Unreadable> {
    let stored: Stored = serde_json::from_reader(BufReader::new(json)).map_err(told)?;
    if stored.config.as_ref().is_some_and(|values| values.text_bytes() > VALUES_BYTES) {
        return Err(Unreadable::ValuesTooLarge);
    }
    Ok(Release {
        info: stored.info.unwrap_or_default(),
        chart: stored.chart.unwrap_or_default(),
        config: stored.config,
    })
}

fn told(error: serde_json::Error) -> Unreadable {
    let (line, column) = (error.line(), error.column());
    match error.classify() {
        Category::Io => reason(&io::Error::from(error)).unwrap_or(Unreadable::EndsEarly),
        Category::Eof => Unreadable::EndsEarly,
        Category::Syntax => Unreadable::BrokenJson { line, column },
        Category::Data => Unreadable::OtherShape { line, column },
    }
}

/// As `verdict::Release`, but nothing else than an object.
#[derive(Deserialize)]
struct Stored {
    info: Option<Info>,
    chart: Option<Chart>,
    config: Option<Values>,
}

/// The innermost of our own reasons in an error of reading.
fn reason(error: &io::Error) -> Option<Unreadable> {
    error.get_ref()?.downcast_ref::<Unreadable>().copied()
}

/// Says which layer it was that could not be read.
struct Marked<R> {
    inner: R,
    why: Unreadable,
}

impl<R: Read> Read for Marked<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf).map_err(|error| match (reason(&error), error.kind()) {
            // A layer below has said it already.
            (Some(why), _) => io::Error::other(why),
            (None, io::ErrorKind::UnexpectedEof) => io::Error::other(Unreadable::EndsEarly),
            (None, io::ErrorKind::Interrupted) => error,
            (None, _) => io::Error::other(self.why),
        })
    }
}

/// Reads so many bytes, and fails at the next.
struct Bounded<R> {
    inner: R,
    left: u64,
    why: Unreadable,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| io::Error::other(self.why))?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use base64::Engine;
    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;

    use super::*;
    use crate::parsing::tests::fixture;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut gz = GzEncoder::new(Vec::new(), Compression::best());
        gz.write_all(bytes).unwrap();
        gz.finish().unwrap()
    }

    fn pack(bytes: &[u8]) -> String {
        STANDARD.encode(STANDARD.encode(bytes))
    }

    #[test]
    fn the_recorded_payloads_are_read() {
        let mut read = 0;
        for entry in std::fs::read_dir(crate::parsing::tests::path("helm")).unwrap() {
            let name = format!("helm/{}", entry.unwrap().file_name().to_str().unwrap());
            for secret in fixture(&name)["full_list_at_end"]["items"].as_array().into_iter().flatten() {
                let release = unpack(secret["data"]["release"].as_str().unwrap().as_bytes()).unwrap();
                assert!(!release.info.description.is_empty(), "{name}");
                assert!(release.chart.metadata.version.is_some(), "{name}");
                read += 1;
            }
        }
        assert!(read > 20, "{read}");
    }

    #[test]
    fn a_rollback_and_the_values_are_told() {
        let list = &fixture("helm/helm4-manual-rollback.json")["full_list_at_end"]["items"];
        let last =
            list.as_array().unwrap().iter().max_by_key(|s| s["metadata"]["labels"]["version"].to_string());
        let release = unpack(last.unwrap()["data"]["release"].as_str().unwrap().as_bytes()).unwrap();
        assert!(release.info.description.starts_with("Rollback to "), "{}", release.info.description);
    }

    #[test]
    fn the_oldest_ones_have_no_gzip() {
        let json =
            br#"{"info":{"description":"old"},"chart":null,"config":{"a":[1,{"b":"c"}]},"extra":[[]]}"#;
        for packed in [pack(json), pack(&gzip(json))] {
            let release = unpack(packed.as_bytes()).unwrap();
            assert_eq!(release.info.description, "old");
            assert_eq!(release.config, serde_json::from_str(r#"{"a":[1,{"b":"c"}]}"#).unwrap());
        }
        assert_eq!(unpack(pack(br#"{"config":null}"#).as_bytes()).unwrap().config, None);
    }

    #[test]
    fn what_is_broken_is_named_and_not_quoted() {
        let secret = br#"{"info":{"description":{"password":"hunter2"}}}"#;
        let mut cut = gzip(&br#"{"chart":1,"info":"#.repeat(50));
        cut.truncate(cut.len() / 2);
        let mut garbled = gzip(secret);
        let middle = garbled.len() / 2;
        garbled[middle] ^= 0xff;
        for (packed, why) in [
            ("%%%".to_owned(), Unreadable::BrokenBase64),
            (STANDARD.encode("no base64!"), Unreadable::BrokenBase64),
            (String::new(), Unreadable::EndsEarly),
            (pack(b""), Unreadable::EndsEarly),
            (pack(b"{"), Unreadable::EndsEarly),
            (pack(&GZIP), Unreadable::EndsEarly),
            (pack(b"plain text"), Unreadable::BrokenJson { line: 1, column: 1 }),
            (pack(b"{} {}"), Unreadable::BrokenJson { line: 1, column: 4 }),
            (pack(b"[[]]"), Unreadable::OtherShape { line: 1, column: 4 }),
        ] {
            assert_eq!(unpack(packed.as_bytes()), Err(why));
        }
        assert!(unpack(pack(&cut).as_bytes()).is_err());
        assert!(unpack(pack(&garbled).as_bytes()).is_err());
        let told = unpack(pack(&gzip(secret)).as_bytes()).unwrap_err();
        assert!(matches!(told, Unreadable::OtherShape { .. }) && !told.to_string().contains("hunter2"));
    }

    #[test]
    fn bounds_hold_at_both_ends() {
        let spaces = |n: usize| vec![b' '; n];
        let bomb = gzip(&spaces(UNPACKED_BYTES as usize + 2));
        assert!(bomb.len() < 32 * 1024);
        assert_eq!(unpack(pack(&bomb).as_bytes()), Err(Unreadable::TooLargeUnpacked));

        let exactly = |bytes: &[u8]| {
            let mut reader = Bounded { inner: bytes, left: 3, why: Unreadable::TooLargeUnpacked };
            reader.read_to_end(&mut Vec::new()).is_ok()
        };
        assert!(exactly(b"123") && !exactly(b"1234"));

        let large = spaces(PACKED_BYTES as usize + 1);
        assert_eq!(unpack(pack(&large).as_bytes()), Err(Unreadable::TooLargePacked));

        let values = format!(r#"{{"config":[{}0]}}"#, "[],".repeat(VALUES_BYTES / 3));
        assert_eq!(unpack(pack(&gzip(values.as_bytes())).as_bytes()), Err(Unreadable::ValuesTooLarge));
    }

    #[test]
    fn long_words_are_cut_or_none() {
        let long = json_text(&"ä".repeat(20_000), &"1".repeat(600));
        let release = unpack(pack(long.as_bytes()).as_bytes()).unwrap();
        assert_eq!(release.info.description.len(), verdict::bounded::TEXT_BYTES);
        assert_eq!((release.chart.metadata.version, release.chart.metadata.name), (None, None));
        let short = json_text("Install complete", "1.2.3");
        let release = unpack(pack(short.as_bytes()).as_bytes()).unwrap();
        assert_eq!(release.chart.metadata.version.as_deref(), Some("1.2.3"));
    }

    fn json_text(description: &str, version: &str) -> String {
        let chart = serde_json::json!({"metadata": {"version": version}});
        serde_json::json!({"info": {"description": description}, "chart": chart}).to_string()
    }

    #[test]
    fn deep_nesting_is_no_stack_overflow() {
        for key in ["config", "info", "chart", "hooks"] {
            let deep = format!(r#"{{"{key}":{}"#, "[".repeat(1_000_000));
            assert!(unpack(pack(&gzip(deep.as_bytes())).as_bytes()).is_err());
            let closed = format!(r#"{{"{key}":{}{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
            let _ = unpack(pack(&gzip(closed.as_bytes())).as_bytes());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = unpack(&bytes);
            let _ = unpack(STANDARD.encode(&bytes).as_bytes());
            let _ = unpack(pack(&bytes).as_bytes());
            let _ = unpack(pack(&gzip(&bytes)).as_bytes());
            let mut marked = GZIP.to_vec();
            marked.extend_from_slice(&bytes);
            let _ = unpack(pack(&marked).as_bytes());
        }
    }
}
