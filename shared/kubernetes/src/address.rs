//! Which addresses a token may be sent to.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net};

/// The metadata service of an EC2 instance, and by convention of other clouds.
pub(crate) const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Which addresses an API server may have: the parameter `AllowedApiServerCidrs`.
///
/// Without a list, private and public addresses are allowed, and refused is what
/// can only be this machine or its surroundings: loopback, link-local, the
/// instance metadata, unspecified, multicast and broadcast. With a list, exactly
/// what it names is allowed, loopback too if it is named.
#[derive(Debug, Clone, Default)]
pub struct AddressPolicy {
    allowed: Option<Vec<IpNet>>,
}

/// An entry of `AllowedApiServerCidrs` that can't be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an address (10.1.2.3, 2001:db8::1) nor a range (10.0.0.0/8, 2001:db8::/32)")]
pub struct BadCidr(String);

/// An address that the policy refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{address} is {why}")]
pub struct RefusedAddress {
    address: IpAddr,
    why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Unspecified,
    Loopback,
    Metadata,
    LinkLocal,
    Multicast,
    Broadcast,
    NotListed,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "no host's address, and refused",
            Self::Loopback => "a loopback address, and refused",
            Self::Metadata => "the instance metadata, and refused",
            Self::LinkLocal => "a link-local address, and refused",
            Self::Multicast => "a multicast address, and refused",
            Self::Broadcast => "the broadcast address, and refused",
            Self::NotListed => "not among the allowed addresses (AllowedApiServerCidrs)",
        })
    }
}

impl AddressPolicy {
    /// The policy of a comma-separated list of ranges and addresses; an empty
    /// text is no list.
    ///
    /// # Errors
    /// The entry that can't be understood. Also where there are only commas: that
    /// was meant as a list, and taking it for none would open what was narrowed.
    pub fn parse(text: &str) -> Result<Self, BadCidr> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let ranges = text
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
            .map(|entry| range(entry).ok_or_else(|| BadCidr(entry.to_owned())))
            .collect::<Result<Vec<_>, _>>()?;
        if ranges.is_empty() {
            return Err(BadCidr(text.to_owned()));
        }
        Ok(Self { allowed: Some(ranges) })
    }

    /// Whether a connection may go to this address.
    ///
    /// # Errors
    /// Why it may not.
    pub fn check(&self, address: IpAddr) -> Result<(), RefusedAddress> {
        let why = match &self.allowed {
            Some(ranges) => (!listed(ranges, address)).then_some(Why::NotListed),
            None => refused(address)
                .or_else(|| embedded(address).into_iter().find_map(|inner| refused(IpAddr::V4(inner)))),
        };
        why.map_or(Ok(()), |why| Err(RefusedAddress { address, why }))
    }

    /// Whether a host may be named like this. What a name resolves to is judged
    /// at each connection; this only tells early what can't come out well.
    ///
    /// # Errors
    /// Why it may not.
    pub(crate) fn check_name(&self, host: &str) -> Result<(), RefusedAddress> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let stands_for: &[IpAddr] =
            if host == "localhost" || host == "localhost.localdomain" || host.ends_with(".localhost") {
                &[IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
            } else if matches!(host.as_str(), "metadata" | "metadata.google.internal" | "instance-data")
                || host.starts_with("instance-data.")
            {
                &[IpAddr::V4(METADATA)]
            } else {
                return Ok(());
            };
        let mut verdicts = stands_for.iter().map(|address| self.check(*address));
        let first = verdicts.next().unwrap_or(Ok(()));
        if first.is_ok() || verdicts.any(|v| v.is_ok()) { Ok(()) } else { first }
    }
}

fn range(entry: &str) -> Option<IpNet> {
    let net = entry.parse().or_else(|_| entry.parse::<IpAddr>().map(IpNet::from)).ok()?;
    // Addresses are compared as IPv4 where they are mapped ones: so must ranges be.
    if let IpNet::V6(v6) = net
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Some(bits) = v6.prefix_len().checked_sub(96)
    {
        return Ipv4Net::new(v4, bits).ok().map(IpNet::V4);
    }
    Some(net)
}

fn listed(ranges: &[IpNet], address: IpAddr) -> bool {
    let contains = |a: IpAddr| ranges.iter().any(|range| range.contains(&a));
    match address {
        // The operating system connects to the IPv4 address.
        IpAddr::V6(v6) if let Some(v4) = v6.to_ipv4_mapped() => contains(IpAddr::V4(v4)),
        // Behind NAT64 an IPv4 cluster has such an address, and its operator
        // knows it by the other.
        IpAddr::V6(v6) if let Some(v4) = nat64(v6) => contains(address) || contains(IpAddr::V4(v4)),
        _ => contains(address),
    }
}

fn refused(address: IpAddr) -> Option<Why> {
    match address {
        IpAddr::V4(v4) => {
            if v4.octets()[0] == 0 {
                // 0.0.0.0/8 is "this host" (RFC 1122); Linux takes 0.0.0.0 for loopback.
                Some(Why::Unspecified)
            } else if v4.is_loopback() {
                Some(Why::Loopback)
            } else if v4 == METADATA {
                Some(Why::Metadata)
            } else if v4.is_link_local() {
                Some(Why::LinkLocal)
            } else if v4.is_multicast() {
                Some(Why::Multicast)
            } else if v4.is_broadcast() {
                Some(Why::Broadcast)
            } else {
                None
            }
        }
        IpAddr::V6(v6) => {
            if v6.is_unspecified() {
                Some(Why::Unspecified)
            } else if v6.is_loopback() {
                Some(Why::Loopback)
            } else if v6.segments()[..2] == [0xfd00, 0x0ec2] {
                // AWS keeps fd00:ec2::/32 for what belongs to the machine:
                // ::254 metadata, ::253 DNS, ::123 time, ::23 pod credentials.
                Some(Why::Metadata)
            } else if v6.is_unicast_link_local() {
                Some(Why::LinkLocal)
            } else if v6.is_multicast() {
                Some(Why::Multicast)
            } else {
                None
            }
        }
    }
}

/// The IPv4 addresses that an IPv6 address may lead to.
fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = address else { return None };
    let s = v6.segments();
    // `to_ipv4` covers mapped (::ffff:a.b.c.d) and compatible (::a.b.c.d) ones.
    v6.to_ipv4().or_else(|| nat64(v6)).or(match s {
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => Some(v4(high, low)),
        // Teredo (RFC 4380) hides the client's address by flipping its bits.
        [0x2001, 0, _, _, _, _, high, low] => Some(v4(!high, !low)),
        _ => None,
    })
}

/// NAT64: the well-known prefix (RFC 6052) and the one for local use (RFC 8215).
fn nat64(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 1, _, _, _, high, low] => Some(v4(high, low)),
        _ => None,
    }
}

fn v4(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: &str, address: &str) -> Result<(), String> {
        let policy = AddressPolicy::parse(policy).unwrap();
        policy.check(address.parse().unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn without_a_list_every_spelling_of_this_machine_is_refused() {
        for (address, why) in [
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("::1", "loopback"),
            ("0.0.0.0", "no host's"),
            ("0.1.2.3", "no host's"),
            ("::", "no host's"),
            ("169.254.169.254", "metadata"),
            ("169.254.170.2", "link-local"),
            ("169.254.0.1", "link-local"),
            ("fe80::1", "link-local"),
            ("febf::1", "link-local"),
            ("fd00:ec2::254", "metadata"),
            ("fd00:ec2::23", "metadata"),
            ("fd00:ec2:ffff::1", "metadata"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("ff02::1", "multicast"),
            ("255.255.255.255", "broadcast"),
            // Mapped and compatible.
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:169.254.169.254", "metadata"),
            ("::ffff:0.0.0.0", "no host's"),
            ("::127.0.0.1", "loopback"),
            ("::169.254.169.254", "metadata"),
            // NAT64.
            ("64:ff9b::7f00:1", "loopback"),
            ("64:ff9b::169.254.169.254", "metadata"),
            ("64:ff9b:1::169.254.169.254", "metadata"),
            ("64:ff9b:1:2:3:4:169.254.169.254", "metadata"),
            ("64:ff9b::224.0.0.1", "multicast"),
            // 6to4 and Teredo.
            ("2002:7f00:1::", "loopback"),
            ("2002:a9fe:a9fe::1", "metadata"),
            ("2001:0:1:2:3:4:5601:5601", "metadata"),
        ] {
            let told = check("", address).expect_err(address);
            assert!(
                told.contains(why) && told.starts_with(&address.parse::<IpAddr>().unwrap().to_string()),
                "{told}"
            );
        }
    }

    #[test]
    fn without_a_list_private_and_public_addresses_are_allowed() {
        for address in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "1.2.3.4",
            "198.51.100.7",
            "fd12::1",
            "2001:db8::1",
            "2a00::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "fd00:ec3::1",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.255.255",
            "169.255.0.0",
            "223.255.255.255",
        ] {
            assert_eq!(check("", address), Ok(()), "{address}");
        }
    }

    #[test]
    fn with_a_list_exactly_what_it_names_is_allowed() {
        let list = " 10.0.0.0/8,127.0.0.1 , 2001:db8::/32,";
        for address in ["10.255.0.1", "127.0.0.1", "::ffff:10.0.0.1", "2001:db8::5", "64:ff9b::a00:1"] {
            assert_eq!(check(list, address), Ok(()), "{address}");
        }
        for address in
            ["11.0.0.1", "127.0.0.2", "::1", "1.1.1.1", "2001:db9::1", "::ffff:127.0.0.2", "2002:a00:1::"]
        {
            let told = check(list, address).expect_err(address);
            assert!(told.contains("AllowedApiServerCidrs"), "{told}");
        }
        assert_eq!(check("::ffff:10.0.0.0/104", "10.1.1.1"), Ok(()));
        assert!(check("::/0", "::ffff:127.0.0.1").is_err(), "a mapped address is an IPv4 address");
        assert_eq!(check("0.0.0.0/0", "169.254.169.254"), Ok(()), "a list says what it says");
    }

    #[test]
    fn a_list_that_cannot_be_understood_is_refused_by_entry() {
        for (list, entry) in [
            ("10.0.0.0/33", "10.0.0.0/33"),
            ("10.0.0.0/8;1.1.1.1", "10.0.0.0/8;1.1.1.1"),
            ("10.0.0.0/8, example.com", "example.com"),
            (",", ","),
        ] {
            let told = AddressPolicy::parse(list).expect_err(list).to_string();
            assert!(told.starts_with(&format!("{entry:?}")), "{told}");
        }
        assert!(AddressPolicy::parse(" ").unwrap().allowed.is_none());
    }

    #[test]
    fn names_that_stand_for_this_machine_are_refused_early() {
        let open = AddressPolicy::default();
        for host in [
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "localhost.localdomain",
            "metadata.google.internal",
            "instance-data",
            "instance-data.ec2.internal",
        ] {
            assert!(open.check_name(host).is_err(), "{host}");
        }
        for host in ["example.com", "localhost.example.com", "kubernetes"] {
            assert!(open.check_name(host).is_ok(), "{host}");
        }
        assert!(AddressPolicy::parse("::1").unwrap().check_name("localhost").is_ok());
        assert!(AddressPolicy::parse("10.0.0.0/8").unwrap().check_name("localhost").is_err());
    }
}
