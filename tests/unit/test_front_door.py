"""The local front door: who it lets one be, and where it listens."""

import pytest

from deploy.local.front_door import ACTORS, FrontDoor, is_loopback, main, split_actor, switch


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1"])
def test_loopback_is_known(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize(
    "address", [".".join("0000"), "::", "10.0.0.1", "localhost", "example.org", "", "127.0.0.1.x"]
)
def test_it_refuses_to_listen_anywhere_else(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not is_loopback(address)
    with pytest.raises(ValueError, match="no loopback address"):
        FrontDoor(address, 1, "http://127.0.0.1:2")
    assert main(["--host", address, "--port", "1", "--gateway", "http://127.0.0.1:2"]) == 2
    assert "no loopback address" in capsys.readouterr().err


def test_a_prefix_names_the_actor_and_is_taken_away() -> None:
    assert split_actor("/as/finance/analytics/console/?x") == (ACTORS["finance"], "/analytics/console/?x")
    assert split_actor("/analytics/v1/usage") == (ACTORS["administrator"], "/analytics/v1/usage")
    assert split_actor("/as/somebody/x") is None


def test_the_switch_links_every_other_actor_to_what_it_may_see() -> None:
    markup = switch(ACTORS["finance"]).decode()
    assert markup.count("<a ") == len(ACTORS) - 1
    assert 'aria-current="true">tenant A&#x27;s finance' in markup
    assert f'href="/as/on-call/analytics/console/#/usage?org={ACTORS["on-call"].org}"' in markup
