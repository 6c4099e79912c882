"""Files at web addresses: only from hosts on the list, only from public addresses, bounded, never redirected."""

import asyncio
from typing import Any

import httpx
import pytest

from llava_mini.errors import InputError, MediaError
from llava_mini.serving import remote as remote_file
from llava_mini.serving.remote import Remote, is_public

PUBLIC = "93.184.215.14"


def remote(answer: Any = None, addresses: Any = (PUBLIC,), hosts: Any = ("pictures.example",)) -> Remote:
    """A fetcher whose network is a function."""
    transport = httpx.MockTransport(answer or (lambda _: httpx.Response(200, stream=httpx.ByteStream(b"picture"))))
    return Remote(hosts, resolve=lambda *_: list(addresses), transport=transport)


def test_a_file_comes_from_the_very_address_that_was_looked_at() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, stream=httpx.ByteStream(b"picture"))

    assert remote(answer).fetch("https://Pictures.example/a.png?b=c", 100) == b"picture"
    assert (seen[0].url.host, seen[0].headers["host"]) == (PUBLIC, "pictures.example")
    assert seen[0].extensions["sni_hostname"] == "pictures.example"
    assert seen[0].url.raw_path == b"/a.png?b=c"


def test_nothing_is_fetched_by_default() -> None:
    with pytest.raises(InputError, match="not fetched from this host"):
        remote(hosts=()).fetch("https://pictures.example/a.png", 100)


@pytest.mark.parametrize(
    "url",
    [
        "https://other.example/a.png",
        "https://pictures.example.evil.example/a.png",
        "https://pictures.example@evil.example/a.png",
        "https://user:word@pictures.example/a.png",
        "https://pictures.example:22/a.png",
        "http://127.0.0.1/a.png",
        "http://[::1]/a.png",
        "http://2130706433/",
        "http://",
        "https://\udcff/",
        "http://pictures.example\r\nHost: x/",
    ],
)
def test_other_hosts_ports_and_tricks_are_refused(url: str) -> None:
    with pytest.raises(InputError):
        remote().fetch(url, 100)


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["10.0.0.1"], ["169.254.169.254"], [PUBLIC, "192.168.0.1"], ["::1"], ["fd00::1"], []],
)
def test_a_name_that_leads_inside_is_refused(addresses: list[str]) -> None:
    with pytest.raises(InputError, match="not a public host"):
        remote(addresses=addresses).fetch("https://pictures.example/a.png", 100)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        (PUBLIC, True),
        ("2606:2800:220:1::1", True),
        ("0.0.0.0", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:7f00:1::", False),
        ("fe80::1%eth0", False),
        ("64:ff9b:1::a00:1", False),
        ("::7f00:1", False),
        ("::ffff:0:7f00:1", False),
        ("fec0::1", False),
        ("nonsense", False),
    ],
)
def test_what_is_public(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_redirects_failures_and_floods_are_told() -> None:
    url = "https://pictures.example/a.png"
    moved = httpx.Response(302, headers={"location": "http://127.0.0.1/"})
    with pytest.raises(MediaError, match="answered 302"):
        remote(lambda _: moved).fetch(url, 100)
    with pytest.raises(MediaError, match="more than 3 bytes"):
        remote().fetch(url, 3)

    def broken(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectTimeout("slow")

    with pytest.raises(MediaError, match="ConnectTimeout"):
        remote(broken).fetch(url, 100)


def test_the_deadline_covers_the_head_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(remote_file, "_SECONDS", 0.05)
    with pytest.raises(MediaError, match="not there after"):
        remote(never).fetch("https://pictures.example/a.png", 100)


def test_no_host_is_shown_the_cookies_of_another() -> None:
    seen: list[httpx.Headers] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        return httpx.Response(200, headers={"set-cookie": "session=a"}, stream=httpx.ByteStream(b"x"))

    fetcher = remote(answer, hosts=("a.example", "b.example"))
    for host in ("a.example", "b.example", "a.example"):
        fetcher.fetch(f"https://{host}/", 10)
    assert not any("cookie" in headers for headers in seen)
