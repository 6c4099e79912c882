"""A server is closed to other machines unless a key is asked, and says what keeps it from starting."""

import socket

import pytest

from llava_mini.errors import InputError
from llava_mini.serving.listening import check_key, is_loopback, listen, names_of

KEY = "a-key-of-enough-letters"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1"])
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    check_key(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org", ""])
def test_other_addresses_need_one(host: str) -> None:
    with pytest.raises(InputError, match="give a key"):
        check_key(host, None)
    check_key(host, KEY)


@pytest.mark.parametrize("key", ["", "short", "with a space in it all", "ключключключключключ", "x" * 20 + "\n"])
def test_keys_that_protect_nothing_are_refused(key: str) -> None:
    with pytest.raises(InputError, match="the key must be"):
        check_key("127.0.0.1", key)


def test_a_port_that_is_taken_is_told() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(InputError, match="choose another --port"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_the_socket_is_of_loopback_alone() -> None:
    with listen("127.0.0.1", 0) as made:
        assert made.getsockname()[0] == "127.0.0.1"
        assert made.family == socket.AF_INET


def test_a_server_is_called_by_the_address_it_announces_and_with_a_key_by_any_name() -> None:
    assert "127.0.0.2" in (names_of("127.0.0.2", None) or ())
    assert "[::1]" in (names_of("::1", None) or ())
    assert "evil.example" not in (names_of("127.0.0.1", None) or ())
    assert names_of("127.0.0.1", KEY) is None
