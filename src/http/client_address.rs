//! From which address a request comes: the peer's, or where trusted proxies stand in front of this node, the one the
//! outermost of them saw. What a client writes into `X-Forwarded-For` itself stands further left, and is never read.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::http::{Extensions, HeaderMap, HeaderName};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Who is at the other end of the connection a request came by.
pub(super) fn peer(extensions: &Extensions) -> IpAddr {
    // `serving` says it; without it every client would be the same one.
    extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(peer)| peer.ip())
}

/// The client's address, with so many trusted proxies between it and this node. None where they don't say it: whoever came
/// past one of them, or through one that does not write the header, is nobody known.
pub(super) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted_proxy_hops: u8) -> Option<IpAddr> {
    let address = match usize::from(trusted_proxy_hops).checked_sub(1) {
        None => peer,
        Some(from_the_right) => forwarded_for(headers, from_the_right)?,
    };
    Some(address.to_canonical())
}

/// The entry so many places from the last one, over all lines of the header in their order. None where there are fewer, or
/// it is no address.
fn forwarded_for(headers: &HeaderMap, from_the_right: usize) -> Option<IpAddr> {
    // Bytes, not text: what one client wrote on the left must not hide what the proxy wrote on the right.
    let entry = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .rev()
        .flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','))
        .nth(from_the_right)?;
    let entry = std::str::from_utf8(entry).ok()?.trim();
    // Some proxies (Azure's, IIS) write the port too.
    entry
        .parse()
        .ok()
        .or_else(|| entry.parse().map(|address: SocketAddr| address.ip()).ok())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const PEER: &str = "192.0.2.1";
    const UNKNOWN: &str = "unknown";

    fn address(lines: &[&[u8]], trusted_proxy_hops: u8) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_bytes(line).unwrap());
        }
        client_address(PEER.parse().unwrap(), &headers, trusted_proxy_hops)
            .map_or_else(|| UNKNOWN.to_owned(), |address| address.to_string())
    }

    #[test]
    fn without_trusted_proxies_the_header_is_not_read() {
        assert_eq!(address(&[b"203.0.113.1"], 0), PEER);
    }

    /// Tried: from the left; only the first line of the header; only the last one.
    #[test]
    fn the_nth_from_the_right_counts_over_all_lines() {
        let lines: [&[u8]; 2] = [b"203.0.113.1, 203.0.113.2", b"203.0.113.3 ,203.0.113.4"];
        for (hops, expected) in [
            (1, "203.0.113.4"),
            (2, "203.0.113.3"),
            (3, "203.0.113.2"),
            (4, "203.0.113.1"),
            (5, UNKNOWN),
            (255, UNKNOWN),
        ] {
            assert_eq!(address(&lines, hops), expected, "{hops}");
        }
        assert_eq!(address(&[], 1), UNKNOWN);
    }

    #[test]
    fn an_entry_that_is_no_address_is_not_guessed_at() {
        for entry in [
            "",
            "unknown",
            "203.0.113",
            "203.0.113.1 203.0.113.2",
            "example.com",
            "_hidden",
        ] {
            assert_eq!(address(&[entry.as_bytes()], 1), UNKNOWN, "{entry}");
            let spoofed = format!("203.0.113.9, {entry}");
            assert_eq!(
                address(&[spoofed.as_bytes()], 1),
                UNKNOWN,
                "{entry}: nor is its neighbour taken"
            );
        }
    }

    #[test]
    fn what_a_client_wrote_does_not_hide_what_its_proxy_wrote() {
        assert_eq!(address(&[b"\xff\xfe, 203.0.113.1"], 1), "203.0.113.1");
        assert_eq!(address(&[b"\xff\xfe", b"203.0.113.1"], 1), "203.0.113.1");
    }

    #[test]
    fn an_address_is_read_with_and_without_its_port_and_a_mapped_one_is_v4() {
        for (entry, expected) in [
            ("203.0.113.1:4711", "203.0.113.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("::ffff:203.0.113.1", "203.0.113.1"),
        ] {
            assert_eq!(address(&[entry.as_bytes()], 1), expected);
        }
    }
}
