//! `apiUrl`, `tlsServerName`, the address policy, and where questions are sent in the end.
//!
//! Lines: AllowedApiServerCidrs, apiUrl, tlsServerName, namespace, release, what names a page, and an address.

use std::net::{IpAddr, Ipv6Addr};

use kubernetes::{AddressPolicy, KubernetesClient, Rules, fuzzing};
use monitor::ports::{Credentials, RegistrationRules};
use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::world;
use crate::{Heap, Target, input, promises};

/// `targets/address.rs` says what it is given.
pub const ADDRESS: Target = Target {
    name: "address",
    seeds,
    run,
    // A client is made for each address, with the public roots.
    heap: Heap { fixed: 4 << 20, times: 64 },
};

fn seeds() -> Vec<Vec<u8>> {
    let policies = [
        "",
        "10.0.0.0/8,127.0.0.1,2001:db8::/32",
        "::ffff:10.0.0.0/104",
        "0.0.0.0/0,::/0",
        ",",
        "10.0.0.0/33",
    ];
    let urls = [
        "https://prod.example.com:6443",
        "https://rancher.example.com/k8s/clusters/c-x1/",
        "https://10.1.2.3",
        "https://127.0.0.1:6443",
        "https://127.1",
        "https://0x7f.0.0.1",
        "https://2130706433/",
        "https://0177.0.0.1./",
        "https://[::1]:6443",
        "https://[::ffff:127.0.0.1]",
        "https://[64:ff9b::169.254.169.254]",
        "https://[2002:7f00:1::]",
        "https://localhost.",
        "https://metadata.google.internal/",
        "https://instance-data.ec2.internal/",
        "https://user:password@example.com",
        "https://example.com/?a=b#c",
        "https://ｅｘａｍｐｌｅ.com//a//%2e%2e/b/",
        "HTTPS://EXAMPLE.COM:443/A",
        "https:example.com",
        "https://a/../../b/./%2F",
        "http://example.com",
    ];
    let names =
        ["", "kubernetes.default.svc", "KUBERNETES", "127.0.0.1", "a_b.example.com", "xn--a", "1", "0x7f.1"];
    let addresses =
        ["127.0.0.1", "::", "fd00:ec2::254", "2001:0:1:2:3:4:5601:5601", "198.51.100.7", "224.0.0.1"];
    let mut seeds = Vec::new();
    for (index, url) in urls.iter().enumerate() {
        for step in 0..2 {
            let at = index * 2 + step;
            let (policy, name) = (policies[at % policies.len()], names[at % names.len()]);
            let address = addresses[at % addresses.len()];
            seeds.push(format!("{policy}\n{url}\n{name}\nshop\ncheckout\na+b/c=&d\n{address}").into_bytes());
        }
    }
    seeds.push("\nhttps://example.com\n\na/../b\n..%2f?x=y#z\n\n::7f00:1".into());
    seeds
}

fn run(data: &[u8]) {
    let lines: [&[u8]; 7] = input::lines(data);
    let [policy, api_url, name, namespace, release, next, address] = lines.map(|line| input::text(line));
    let policy = match AddressPolicy::parse(&policy) {
        Ok(policy) => policy,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            AddressPolicy::default()
        }
    };
    let open = AddressPolicy::default();
    if let Ok(address) = address.trim().parse() {
        judged(&policy, &open, address);
    }
    let rules = Rules::new(policy.clone());
    let name = (!name.is_empty()).then_some(&*name);
    let name_fits = name.is_none_or(|name| match rules.tls_server_name(name) {
        Ok(()) => true,
        Err(why) => {
            promises::is_detail(&why);
            false
        }
    });
    let registered = match rules.api_url(&api_url) {
        Ok(registered) => {
            assert_eq!(rules.api_url(&registered).as_ref(), Ok(&registered), "it is itself");
            Some(registered)
        }
        Err(why) => {
            promises::is_detail(&why);
            None
        }
    };
    // Registered or not, as a secret may hold an address that is older than the policy.
    let credentials = Credentials {
        api_url: registered.clone().unwrap_or_else(|| api_url.clone().into_owned()),
        tls_server_name: name.map(str::to_owned),
        personal: None,
        ..world::credentials()
    };
    let client = KubernetesClient::new(policy.clone()).unwrap();
    let next = (!next.is_empty()).then_some(&*next);
    let asked = fuzzing::asked(&client, &credentials, &namespace, &release, next);
    let Some(registered) = registered.filter(|_| name_fits) else {
        assert!(asked.is_err(), "{credentials:?} were never registered");
        return;
    };
    let base = Url::parse(&registered).unwrap();
    may_be_connected_to(&policy, &base);
    let asked = asked.unwrap_or_else(|error| panic!("{registered} was accepted: {error:?}"));
    for (url, host) in asked {
        // A certificate's names have no dot at the end.
        let name = name.map(|name| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase());
        let is_named = name.is_some();
        let server = name.or(base.host_str().map(str::to_owned));
        assert_eq!((url.scheme(), url.host_str(), url.port()), ("https", server.as_deref(), base.port()));
        assert_eq!((url.username(), url.password(), url.fragment()), ("", None, None), "{url}");
        let authority = base.host_str().map(|host| match base.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        });
        assert_eq!(host, authority.filter(|_| is_named), "the host that is meant is named");
        stays(&base, &url, &namespace, &release);
    }
}

/// Whatever the names, the path is the one that was meant.
fn stays(base: &Url, url: &Url, namespace: &str, release: &str) {
    let segments = |url: &Url| -> Vec<String> {
        url.path_segments().unwrap().filter(|it| !it.is_empty()).map(str::to_owned).collect()
    };
    let (before, all) = (segments(base), segments(url));
    let after = all.strip_prefix(before.as_slice()).unwrap_or_else(|| panic!("{url} is not below {base}"));
    let at = |index: usize| percent_decode_str(&after[index]).decode_utf8().unwrap();
    match after[0].as_str() {
        "apis" => {
            assert_eq!(after.len(), 7, "{url}");
            assert_eq!((&*at(4), &*at(6)), (namespace, release), "{url}");
            assert_eq!((at(5).as_ref(), url.query()), ("helmreleases", None), "{url}");
        }
        _ => {
            assert_eq!(after.len(), 5, "{url}");
            assert_eq!((&*at(3), &*at(4)), (namespace, "secrets"), "{url}");
            assert!(url.query_pairs().all(|(key, _)| key != "resourceVersion"), "{url}");
        }
    }
}

/// What was accepted by its name is an address that the policy allows, or a name that is asked for at each connection.
fn may_be_connected_to(policy: &AddressPolicy, base: &Url) {
    assert!(base.query().is_none() && base.fragment().is_none() && base.username().is_empty());
    assert_ne!(base.port(), Some(0));
    match base.host().unwrap() {
        Host::Ipv4(address) => policy.check(address.into()).unwrap(),
        Host::Ipv6(address) => policy.check(address.into()).unwrap(),
        Host::Domain(name) => {
            assert!(name.trim_end_matches('.').parse::<IpAddr>().is_err(), "{name} is an address");
        }
    }
}

/// An address is judged alike in both families; without a list, nothing passes that leads to this machine.
fn judged(policy: &AddressPolicy, open: &AddressPolicy, address: IpAddr) {
    let told = policy.check(address);
    assert!(told.as_ref().err().is_none_or(|why| why.to_string().starts_with(&address.to_string())));
    if let IpAddr::V4(v4) = address {
        assert_eq!(told.is_ok(), policy.check(v4.to_ipv6_mapped().into()).is_ok(), "{v4}");
        let [a, b, c, d] = v4.octets().map(u16::from);
        let (high, low) = (a << 8 | b, c << 8 | d);
        let nat64 = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low);
        let sixto4 = Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1);
        for inner in [nat64, sixto4] {
            assert_eq!(
                open.check(address).is_ok(),
                open.check(inner.into()).is_ok(),
                "{inner} leads to {v4}"
            );
        }
    }
    let near = match address.to_canonical() {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast()
        }
    };
    assert!(!near || open.check(address).is_err(), "{address}");
}
