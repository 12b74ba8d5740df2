//! Which targets this agent may look at: its own configuration says, never the plan.
//!
//! A host must be listed by name, or be an address inside a listed network. The name is resolved once,
//! every address is checked, and that address is dialled, so that a name cannot change in between.
//! Loopback and private addresses must be listed as such, even behind a listed name; link-local
//! addresses, where clouds keep their metadata, are never dialled.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};

use super::target::Origin;

/// One entry: `shop.example.com`, `shop.example.com:8443`, `127.0.0.1:8080`, `[::1]:80` or `10.0.0.0/8`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    host: Host,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Name(String),
    Network(IpNet),
}

/// The whole list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Allow(Vec<Entry>);

/// Why a text is not an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a target: write a host, host:port, an address, or a network such as 10.0.0.0/8")]
pub struct EntryError(String);

impl FromStr for Entry {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, EntryError> {
        let wrong = || EntryError(text.chars().take(80).collect());
        if let Some(network) = network(text) {
            return Ok(Self { host: Host::Network(network), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if let Some(network) = network(bare) {
            return Ok(Self { host: Host::Network(network), port });
        }
        let is_name =
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        if is_name { Ok(Self { host: Host::Name(host.to_ascii_lowercase()), port }) } else { Err(wrong()) }
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Allow {
    /// Exactly these.
    ///
    /// # Errors
    /// When a host is not one.
    pub fn only(origins: &[Origin]) -> Result<Self, String> {
        let entries = origins.iter().map(|origin| format!("{}:{}", origin.bracketed(), origin.port).parse());
        entries.collect::<Result<_, EntryError>>().map(Self).map_err(|error| error.to_string())
    }

    /// Refuses an origin that is not listed; what its name resolves to is checked when it is dialled.
    pub fn check(&self, origin: &Origin) -> Result<(), String> {
        let listed = match origin.host.parse::<IpAddr>() {
            Ok(address) => return self.check_address(address, origin.port),
            Err(_) => self.open_to(origin.port).any(|host| matches!(host, Host::Name(name) if *name == origin.host)),
        };
        if listed { Ok(()) } else { Err(format!("`{}` is not in this agent's `allow`", origin.authority())) }
    }

    /// Refuses an address that a listed name resolved to.
    pub fn check_resolved(&self, origin: &Origin, address: IpAddr) -> Result<(), String> {
        let is_literal = origin.host.parse::<IpAddr>().is_ok();
        let plain = unwrapped(address);
        // The one name that says by itself that it is loopback.
        let is_localhost = origin.host == "localhost" && plain.is_loopback();
        if !is_literal && (is_localhost || reach(plain) == Reach::Public) {
            return Ok(());
        }
        self.check_address(address, origin.port)
    }

    fn check_address(&self, address: IpAddr, port: u16) -> Result<(), String> {
        let plain = unwrapped(address);
        if reach(plain) == Reach::Never {
            return Err(format!("{address} is link-local or no host at all: never looked at"));
        }
        let within = |host: &Host| matches!(host, Host::Network(network) if network.contains(&plain));
        if self.open_to(port).any(within) {
            return Ok(());
        }
        Err(format!("{address} is not in this agent's `allow`; list it, or its network"))
    }

    fn open_to(&self, port: u16) -> impl Iterator<Item = &Host> {
        self.0.iter().filter(move |entry| entry.port.is_none_or(|own| own == port)).map(|entry| &entry.host)
    }
}

fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Not even when listed.
    Never,
    /// Only when listed.
    Private,
    /// Behind any listed name.
    Public,
}

fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(v4) => reach_v4(v4),
        IpAddr::V6(v6) => reach_v6(v6),
    }
}

fn reach_v4(v4: Ipv4Addr) -> Reach {
    let [a, b, c, _] = v4.octets();
    let never = v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() || a == 0 || a >= 240;
    let shared = a == 100 && (64..128).contains(&b);
    let special = (a == 192 && b == 0 && (c == 0 || c == 2)) || (a == 198 && (18..20).contains(&b));
    if never {
        Reach::Never
    } else if v4.is_loopback() || v4.is_private() || v4.is_documentation() || shared || special {
        Reach::Private
    } else {
        Reach::Public
    }
}

fn reach_v6(v6: Ipv6Addr) -> Reach {
    // fd00:ec2::254 is unique-local, and yet a cloud's metadata.
    let metadata = v6.segments() == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254];
    if metadata || v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local() {
        Reach::Never
    } else if v6.segments()[0] & 0xe000 == 0x2000 && v6.segments()[..2] != [0x2001, 0xdb8] {
        Reach::Public
    } else {
        Reach::Private
    }
}

/// The IPv4 address inside an IPv6 one, where there is one: mapped, compatible, NAT64, 6to4.
fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let low = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => low(g, h),
        [0, 0, 0, 0, 0, 0] if g != 0 => low(g, h),
        [0x2002, ..] => low(b, c),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(entries: &[&str]) -> Allow {
        Allow(entries.iter().map(|entry| entry.parse().unwrap()).collect())
    }

    fn is_open(entries: &[&str], url: &str) -> bool {
        allow(entries).check(&Origin::parse(url).unwrap().0).is_ok()
    }

    fn may_dial(entries: &[&str], url: &str, address: &str) -> bool {
        allow(entries).check_resolved(&Origin::parse(url).unwrap().0, address.parse().unwrap()).is_ok()
    }

    #[test]
    fn only_listed_hosts_are_open() {
        let list = ["shop.example.com", "api.example.com:8443", "127.0.0.1:8080", "10.0.0.0/8", "[::1]:80"];
        for url in [
            "https://shop.example.com",
            "http://SHOP.example.com:81",
            "https://api.example.com:8443",
            "http://127.0.0.1:8080",
            "http://10.1.2.3:9",
            "http://[::1]",
        ] {
            assert!(is_open(&list, url), "{url}");
        }
        for url in [
            "https://example.com",
            "https://shop.example.com.evil.net",
            "https://api.example.com",
            "http://127.0.0.1:8081",
            "http://127.0.0.2:8080",
            "http://0x7f000001:8080",
            "http://2130706433:8080",
            "http://11.0.0.1",
            "http://[::1]:81",
            "http://[::ffff:127.0.0.1]:81",
        ] {
            assert!(!is_open(&list, url), "{url}");
        }
    }

    #[test]
    fn a_name_may_lead_only_where_it_should() {
        let list = ["shop.example.com", "localhost", "10.0.0.0/8"];
        for (url, address, expected) in [
            ("http://shop.example.com", "93.184.216.34", true),
            ("http://shop.example.com", "2606:2800:220:1::1", true),
            ("http://shop.example.com", "10.9.9.9", true),
            ("http://shop.example.com", "192.168.0.1", false),
            ("http://shop.example.com", "127.0.0.1", false),
            ("http://shop.example.com", "::1", false),
            ("http://shop.example.com", "::ffff:127.0.0.1", false),
            ("http://shop.example.com", "64:ff9b::7f00:1", false),
            ("http://shop.example.com", "2002:7f00:1::1", false),
            ("http://shop.example.com", "fd00::1", false),
            ("http://shop.example.com", "100.64.0.1", false),
            ("http://localhost", "127.0.0.1", true),
            ("http://localhost", "::1", true),
            ("http://localhost", "192.168.0.1", false),
        ] {
            assert_eq!(may_dial(&list, url, address), expected, "{url} at {address}");
        }
    }

    #[test]
    fn metadata_and_link_local_are_never_dialled() {
        let all = ["0.0.0.0/0", "::/0", "shop.example.com"];
        for address in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "fe80::1",
            "fd00:ec2::254",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
        ] {
            assert!(!may_dial(&all, "http://shop.example.com", address), "{address}");
        }
        assert!(!is_open(&all, "http://169.254.169.254"));
        assert!(is_open(&all, "http://127.0.0.1"));
    }

    #[test]
    fn entries_without_sense_are_refused() {
        for text in ["", ":80", "a:b", "a b", "http://a", "10.0.0.0/33", "a:99999", "*"] {
            assert!(text.parse::<Entry>().is_err(), "`{text}` was accepted");
        }
    }
}
