//! What a registration gives, checked without asking anybody.

use std::net::IpAddr;

use jiff::Timestamp;
use monitor::ports::{CaCert, RegistrationRules};
use rustls_pki_types::ServerName;
use url::{Host, Url};

use crate::{AddressPolicy, certificates};

/// Longer addresses exist nowhere, and it is a part of every request.
const URL_BYTES: usize = 2048;

/// Checks the address, the certificates and the server name of a registration.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    policy: AddressPolicy,
}

impl Rules {
    /// Rules under which an address may only be what the policy allows.
    #[must_use]
    pub fn new(policy: AddressPolicy) -> Self {
        Self { policy }
    }
}

impl RegistrationRules for Rules {
    fn api_url(&self, text: &str) -> Result<String, String> {
        api_url(&self.policy, text).map(|url| without_slash(&url).to_owned())
    }

    fn ca_cert(&self, text: &str, now: Timestamp) -> Result<CaCert, String> {
        certificates::check(text, now)
    }

    fn tls_server_name(&self, text: &str) -> Result<(), String> {
        tls_server_name(text).map(|_| ())
    }
}

/// The address as it is connected to.
pub(crate) fn api_url(policy: &AddressPolicy, text: &str) -> Result<Url, String> {
    let text = text.trim();
    if text.len() > URL_BYTES {
        return Err(format!("it is longer than {URL_BYTES} characters"));
    }
    // A URL parser drops tabs and line ends, and takes `\` for `/`: then it is not
    // what was read by a person.
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
        return Err("it holds white space, control characters or a backslash".to_owned());
    }
    // Never quoted where it may hold a password.
    let mut url = Url::parse(text).map_err(|e| format!("it is no URL: {e}"))?;
    if url.scheme() != "https" || !text.to_ascii_lowercase().starts_with("https://") {
        return Err("it must begin with https://, because the token goes there".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it must not hold a user or a password".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it must not hold a query (?) or a fragment (#)".to_owned());
    }
    if url.port() == Some(0) {
        return Err("it names port 0, where nobody listens".to_owned());
    }
    match url.host() {
        Some(Host::Domain(name)) => policy.check_name(name).map_err(|e| format!("{name}: {e}"))?,
        Some(Host::Ipv4(ip)) => policy.check(IpAddr::V4(ip)).map_err(|e| e.to_string())?,
        Some(Host::Ipv6(ip)) => policy.check(IpAddr::V6(ip)).map_err(|e| e.to_string())?,
        None => return Err("it names no host".to_owned()),
    }
    let segments: Vec<&str> = url.path().split('/').filter(|segment| !segment.is_empty()).collect();
    let path = segments.join("/");
    url.set_path(&path);
    Ok(url)
}

/// The URL as text that a path can be appended to.
pub(crate) fn without_slash(url: &Url) -> &str {
    url.as_str().trim_end_matches('/')
}

/// A name that can be asked for in the handshake.
pub(crate) fn tls_server_name(text: &str) -> Result<String, String> {
    match ServerName::try_from(text) {
        Ok(ServerName::DnsName(name)) => {
            // It takes the host's place in the URL, so it must be one there, too.
            let name = name.as_ref().to_ascii_lowercase();
            let host = Url::parse(&format!("https://{name}/")).ok().and_then(|url| match url.host() {
                Some(Host::Domain(host)) => Some(host == name),
                _ => None,
            });
            if host == Some(true) { Ok(name) } else { Err(no_name(text)) }
        }
        Ok(_) => Err("it must be a DNS name: an address can't be asked for in a TLS handshake \
                      (RFC 6066). API servers' certificates are for `kubernetes.default.svc`, too"
            .to_owned()),
        Err(_) => Err(no_name(text)),
    }
}

fn no_name(text: &str) -> String {
    let shown: String = text.chars().take(100).collect();
    format!("{shown:?} is no DNS name")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn api_url(text: &str) -> Result<String, String> {
        Rules::default().api_url(text)
    }

    #[test]
    fn an_address_is_kept_in_one_form() {
        for (text, kept) in [
            ("https://example.com", "https://example.com"),
            ("HTTPS://Example.COM:443/", "https://example.com"),
            (" https://example.com:6443/\n", "https://example.com:6443"),
            (
                "https://rancher.example.com/k8s/clusters/c-x1",
                "https://rancher.example.com/k8s/clusters/c-x1",
            ),
            (
                "https://rancher.example.com//k8s///clusters/c-x1//",
                "https://rancher.example.com/k8s/clusters/c-x1",
            ),
            ("https://example.com/a/../b/./c", "https://example.com/b/c"),
            ("https://example.com/a/%2e%2e/b", "https://example.com/b"),
            ("https://example.com/a%2Fb", "https://example.com/a%2Fb"),
            ("https://10.0.0.1:6443", "https://10.0.0.1:6443"),
            ("https://[2001:db8::1]:6443/x/", "https://[2001:db8::1]:6443/x"),
            ("https://0xa.0.0.1", "https://10.0.0.1"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
        ] {
            assert_eq!(api_url(text).as_deref(), Ok(kept), "{text}");
            assert_eq!(api_url(kept).as_deref(), Ok(kept), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_of_an_api_server_is_refused() {
        for (text, why) in [
            ("", "no URL"),
            ("example.com", "no URL"),
            ("http://example.com", "https://"),
            ("https:example.com", "https://"),
            ("https:/example.com", "https://"),
            ("ftp://example.com", "https://"),
            ("file:///etc/passwd", "https://"),
            ("https://", "no URL"),
            ("https://me@example.com", "user"),
            ("https://me:hunter2@example.com", "user"),
            ("https://:hunter2@example.com", "user"),
            ("https://example.com?x=1", "query"),
            ("https://example.com/?", "query"),
            ("https://example.com/#", "fragment"),
            ("https://example.com:0", "port 0"),
            ("https://example.com:99999", "no URL"),
            ("https://exa mple.com", "white space"),
            ("https://exam\tple.com", "white space"),
            ("https://example.com\\@evil.example", "backslash"),
            ("https://[::1%25eth0]", "no URL"),
            ("https://localhost:6443", "loopback"),
            ("https://api.localhost", "loopback"),
            ("https://metadata.google.internal", "metadata"),
        ] {
            let told = api_url(text).expect_err(text);
            assert!(told.contains(why) && !told.contains("hunter2"), "{text}: {told}");
            assert!(!told.starts_with("apiUrl"), "the pointer says which field it is: {told}");
        }
        assert!(
            api_url(&format!("https://example.com/{}", "x".repeat(2048))).unwrap_err().contains("longer")
        );
    }

    #[test]
    fn every_spelling_of_a_refused_address_is_refused() {
        for host in [
            "127.0.0.1",
            "127.1",
            "127.0.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "017700000001",
            "127.0.0.1.",
            "１２７.0.0.1",
            "127。0。0。1",
            "%31%32%37.0.0.1",
            "0",
            "0.0.0.0",
            "0.1.2.3",
            "0x0.0x1.2.3",
            "169.254.169.254",
            "169.254.170.2",
            "0xa9fea9fe",
            "0xa9.0xfe.0xa9.0xfe",
            "2852039166",
            "0251.0376.0251.0376",
            "169.254.43518",
            "[::1]",
            "[0:0:0:0:0:0:0:1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::127.0.0.1]",
            "[64:ff9b::127.0.0.1]",
            "[64:ff9b::a9fe:a9fe]",
            "[2002:7f00:1::]",
            "[fe80::1]",
            "[fd00:ec2::254]",
            "[fd00:ec2:ffff::1]",
            "[::ffff:169.254.169.254]",
            "[::ffff:0:0]",
            "[64:ff9b:1::169.254.169.254]",
            "[2002:a9fe:a9fe::]",
            "[febf::1]",
            "[ff02::1]",
            "224.0.0.1",
            "255.255.255.255",
            "4294967295",
        ] {
            let told = api_url(&format!("https://{host}:6443/x")).expect_err(host);
            assert!(told.contains("refused"), "{host}: {told}");
        }
    }

    #[test]
    fn a_list_opens_and_narrows() {
        let rules = Rules::new(AddressPolicy::parse("127.0.0.0/8,10.0.0.0/8").unwrap());
        assert_eq!(rules.api_url("https://2130706433:6443").as_deref(), Ok("https://127.0.0.1:6443"));
        assert_eq!(rules.api_url("https://localhost").as_deref(), Ok("https://localhost"));
        assert!(rules.api_url("https://192.168.0.1").unwrap_err().contains("AllowedApiServerCidrs"));
    }

    #[test]
    fn a_server_name_is_a_dns_name() {
        let rules = Rules::default();
        for name in [
            "kubernetes.default.svc",
            "API.example.com",
            "a_b.example",
            "localhost",
            "xn--bcher-kva.de",
            "a.b.",
        ] {
            assert_eq!(rules.tls_server_name(name), Ok(()), "{name}");
        }
        assert_eq!(tls_server_name("API.example.com.").as_deref(), Ok("api.example.com"));
        for name in ["10.0.0.1", "::1", "2001:db8::1"] {
            assert!(rules.tls_server_name(name).unwrap_err().contains("DNS name"), "{name}");
        }
        for name in
            ["", " ", "a b", "*.example.com", "a..b", "ä.example", "a:443", "a/b", "0x7f.1", "user@host", "-"]
        {
            assert!(rules.tls_server_name(name).expect_err(name).contains("no DNS name"), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_text_has_an_answer_and_what_is_kept_stays(text in "(https://)?\\PC{0,60}") {
            if let Ok(kept) = api_url(&text) {
                prop_assert_eq!(api_url(&kept), Ok(kept.clone()));
                prop_assert!(kept.starts_with("https://") && !kept.ends_with('/'));
                prop_assert!(!kept["https://".len()..].contains("//"));
            }
            let _ = Rules::default().tls_server_name(&text);
        }
    }
}
