"""What may be a webhook's address, and which machines may be called at all."""

from ipaddress import ip_address

import pytest

from maquette.core.errors import InvalidRequest
from maquette.server.webhooks.address import InvalidAddress, read_address
from maquette.server.webhooks.reach import Reach, read_networks
from maquette.server.webhooks.service import check_address

PUBLIC = Reach()


@pytest.mark.parametrize(
    ("text", "host", "port", "authority"),
    [
        ("https://example.com", "example.com", 443, "example.com"),
        ("HTTPS://EXAMPLE.com/x", "example.com", 443, "example.com"),
        ("http://example.com:8080/done?a=b", "example.com", 8080, "example.com:8080"),
        ("http://example.com:/", "example.com", 80, "example.com"),
        ("http://a_b.example.com./x", "a_b.example.com.", 80, "a_b.example.com."),
        ("http://faß.example/ä?q=ü", "xn--fa-hia.example", 80, "xn--fa-hia.example"),
        ("http://例え.テスト/", "xn--r8jz45g.xn--zckzah", 80, "xn--r8jz45g.xn--zckzah"),
        ("http://name:secret@example.com/", "example.com", 80, "example.com"),
        ("http://[2606:4700::1]:8080/", "2606:4700::1", 8080, "[2606:4700::1]:8080"),
    ],
)
def test_an_address_is_read_once_for_all(text: str, host: str, port: int, authority: str) -> None:
    address = read_address(text)
    assert (address.host, address.port, address.authority) == (host, port, authority)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ftp://example.com/", "must be an http or https address"),
        ("//example.com/", "must be an http or https address"),
        ("http:///done", "must be an http or https address"),
        ("https://", "must be an http or https address"),
        ("http://example.com:0/", "must have a port from 1 to 65535, got 0"),
        ("http://example.com:65536/", "must have a port from 1 to 65535, got 65536"),
        ("http://example.com:web/", "must be an address: Invalid port"),
        ("http://[::1/", "must be an address"),
        ("http://example.com/\n", "must be an address: Invalid non-printable"),
        ("http://\u200b.com/", "must be an address: Invalid IDNA hostname"),
        ("http://a..b/", "must have a host name"),
        ("http://.example.com/", "must have a host name"),
        ("http://-a.example.com/", "must have a host name"),
        ("http://a b/", "must have a host name"),
        ("http://a%00b/", "must have a host name"),
        ("http://xn--/", "must have a host name"),
        (f"http://{'a' * 64}.example/", "must have a host name"),
        (f"http://{'a.' * 127}a/", "must have a host name"),
        ("http://[fe80::1%25eth0]/", "must have a host name"),
        ("http://1.2.3.4.5/", "must have a host name or an IP address, got '1.2.3.4.5'"),
        ("http://256.1.1.1/", "must be an address: Invalid IPv4"),
        ("http://[1::2::3]/", "must be an address: Invalid IPv6"),
    ],
)
def test_what_no_call_will_ever_reach_is_refused_at_once(text: str, words: str) -> None:
    with pytest.raises(InvalidAddress) as refused:
        read_address(text)
    assert str(refused.value).startswith(words)
    with pytest.raises(InvalidRequest, match=r"^extra\.webhook\.url: must "):
        check_address(text, PUBLIC, field="extra.webhook.url")


@pytest.mark.parametrize(
    "host",
    [
        *(
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f.1",
            "0177.1",
            "127.0.0.1.",
            "localhost",
            "LOCALHOST.",
            "a.localhost",
        ),
        *("10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "[fd00:ec2::254]", "[64:ff9b::a9fe:a9fe]"),
    ],
)
def test_an_address_in_the_house_is_told_at_once_and_may_be_allowed(host: str) -> None:
    url = f"http://{host}:8080/done"
    with pytest.raises(InvalidRequest, match=r"must be a public address, and .* is not; the operator can allow it"):
        check_address(url, PUBLIC, field="extra.webhook.url")
    literal = read_address(url).literal
    check_address(url, Reach(read_networks("127.0.0.0/8,10.0.0.1,169.254.0.0/16,::1,fd00::/8")), field="url")
    assert literal is not None
    assert not PUBLIC.includes(literal)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "100.63.255.255"],
)
def test_the_public_may_be_called(address: str) -> None:
    assert PUBLIC.includes(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        # this machine, private, shared, link-local with what clouds tell their machines, and what is nobody's
        *("0.0.0.0", "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "100.64.0.1", "100.100.100.200"),
        *("169.254.169.254", "168.63.129.16", "192.0.0.192", "192.0.2.1", "198.18.0.1", "240.0.0.1", "255.255.255.255"),
        *("224.0.0.1", "192.88.99.1"),
        *("::", "::1", "fe80::1", "fec0::1", "fd00:ec2::254", "ff02::1", "100::1", "2001:db8::1", "3fff::1", "2001::1"),
        # the same behind a translator
        *(
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:a00:1::",
        ),
    ],
)
def test_the_house_may_not_be_called(address: str) -> None:
    assert not PUBLIC.includes(ip_address(address))


def test_what_the_operator_allows_is_meant_however_it_is_written() -> None:
    reach = Reach(read_networks("10.0.0.0/8, fd00::/8"))
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "fd00::1"):
        assert reach.includes(ip_address(address))
    for address in ("192.168.0.1", "::ffff:192.168.0.1", "fe80::1"):
        assert not reach.includes(ip_address(address))
    with pytest.raises(ValueError, match="has host bits set"):
        read_networks("10.0.0.1/8")
