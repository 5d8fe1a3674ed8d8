//! What a TLS session is for, where its handshake tells: DNS over TLS, QUIC and HTTPS.

use super::tls::hello::Carrier;
use crate::l7::{Alpn, Class};

/// Names of public resolvers that answer DNS over HTTPS (RFC 8484), sorted. Their own names for nothing else but that and
/// a page about it.
const RESOLVERS: &[&str] = &[
    "1dot1dot1dot1.cloudflare-dns.com",
    "chrome.cloudflare-dns.com",
    "cloudflare-dns.com",
    "dns.adguard-dns.com",
    "dns.adguard.com",
    "dns.alidns.com",
    "dns.aa.net.uk",
    "dns.cloudflare.com",
    "dns.google",
    "dns.google.com",
    "dns.mullvad.net",
    "dns.nextdns.io",
    "dns.quad9.net",
    "dns.sb",
    "dns.switch.ch",
    "dns10.quad9.net",
    "dns11.quad9.net",
    "dns64.dns.google",
    "dns9.quad9.net",
    "dnsforge.de",
    "doh.cleanbrowsing.org",
    "doh.dns.sb",
    "doh.familyshield.opendns.com",
    "doh.libredns.gr",
    "doh.opendns.com",
    "doh.pub",
    "doh.quickline.ch",
    "doh.xfinity.com",
    "family.cloudflare-dns.com",
    "firefox.dns.nextdns.io",
    "freedns.controld.com",
    "mozilla.cloudflare-dns.com",
    "odvr.nic.cz",
    "security.cloudflare-dns.com",
    "unfiltered.adguard-dns.com",
];

/// The class by what carries the hello, by the first protocol offered (IANA has "dot" and "doq" of RFC 7858 and RFC 9250),
/// and by the server's name: a public resolver's, asked over HTTP, says DNS over HTTPS.
pub fn class(carrier: Carrier, alpn: Alpn, host: Option<&str>) -> Class {
    match (carrier, alpn) {
        (Carrier::Dtls, _) => Class::Dtls,
        (Carrier::Tls, Alpn::Dot) => Class::Dot,
        (Carrier::Quic, Alpn::Doq) => Class::Doq,
        (_, Alpn::H2 | Alpn::H3 | Alpn::Http11) if host.is_some_and(|h| RESOLVERS.contains(&h)) => Class::Doh,
        (Carrier::Tls, _) => Class::Tls,
        (Carrier::Quic, _) => Class::Quic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_inside_is_told_by_protocol_and_name() {
        use Carrier::*;
        assert_eq!(class(Tls, Alpn::H2, Some("dns.google")), Class::Doh);
        assert_eq!(class(Tls, Alpn::None, Some("dns.google")), Class::Tls);
        assert_eq!(class(Tls, Alpn::H2, Some("www.google.com")), Class::Tls);
        assert_eq!(class(Tls, Alpn::Dot, None), Class::Dot);
        assert_eq!((class(Quic, Alpn::Doq, None), class(Quic, Alpn::H3, None)), (Class::Doq, Class::Quic));
        assert_eq!(class(Dtls, Alpn::H2, Some("dns.google")), Class::Dtls);
    }
}
