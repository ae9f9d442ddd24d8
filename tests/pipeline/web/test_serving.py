"""The address of the page: its port, its token, its datasets."""

from __future__ import annotations

import asyncio
import socket
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipeline.settings import read_again
from pipeline.web.serving import PageOptions, serving
from schemas.errors import UsageError
from tests.formats.kept import Kept


def status(url: str) -> int:
    """The status of an address, its redirects followed without cookies."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        return exc.code


async def test_the_printed_address_leads_in_and_another_token_does_not(tickets: Kept) -> None:
    async with serving(tickets.project.folder, PageOptions()) as url:
        base = url.split("?")[0]
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        page = await asyncio.to_thread(lambda: opener.open(url, timeout=20).read().decode())
        assert "/d/tickets/partitions" in page
        assert await asyncio.to_thread(status, base) == 401
        assert await asyncio.to_thread(status, f"{base}?token=x") == 401
        assert len(url.partition("token=")[2]) >= 32


async def test_two_pages_have_two_ports_and_two_tokens(tickets: Kept) -> None:
    async with (
        serving(tickets.project.folder, PageOptions()) as one,
        serving(tickets.project.folder, PageOptions()) as other,
    ):
        assert urlsplit(one).port != urlsplit(other).port
        assert one.partition("token=")[2] != other.partition("token=")[2]


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"--port {port}: this address cannot be used"):
            async with serving(tmp_path, PageOptions(port=port)):
                pass


async def test_a_folder_that_is_no_sink_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no sink: nothing was published there"):
        async with serving(tmp_path, PageOptions(sinks=(str(tmp_path / "nothing"),))):
            pass


@pytest.mark.parametrize("token", ["short", "sixteen letters with blanks", "ümläuteümläuteümläute"])
async def test_a_poor_token_is_refused(tmp_path: Path, token: str) -> None:
    with pytest.raises(UsageError, match="no good token") as refused:
        async with serving(tmp_path, PageOptions(token=token)):
            pass
    assert token not in str(refused.value), "not even a poor one is printed"


async def test_acts_are_for_this_machine_unless_allowed(tickets: Kept) -> None:
    for host, acts, mode in (
        ("127.0.0.1", None, "acts allowed"),
        ("127.0.0.1", False, "read only"),
        ("0.0.0.0", None, "read only"),
        ("0.0.0.0", True, "acts allowed"),
    ):
        options = PageOptions(host=host, acts=acts, allowed_hosts=("127.0.0.1",))
        async with serving(tickets.project.folder, options) as url:
            opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            page = await asyncio.to_thread(lambda: opener.open(url, timeout=20).read().decode())  # noqa: B023
            assert mode in page, (host, acts)


def test_the_token_comes_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_again().token_of_page() is None
    file = tmp_path / "token"
    file.write_text("a-token-from-a-file\n")
    monkeypatch.setenv("TANDEM_UI_TOKEN_FILE", str(file))
    assert read_again().token_of_page() == "a-token-from-a-file"
    monkeypatch.setenv("TANDEM_UI_TOKEN", "a-token-of-its-own")
    assert read_again().token_of_page() == "a-token-of-its-own"
    assert "a-token-of-its-own" not in repr(read_again())
    monkeypatch.delenv("TANDEM_UI_TOKEN")
    monkeypatch.setenv("TANDEM_UI_TOKEN_FILE", str(tmp_path / "absent"))
    with pytest.raises(UsageError, match=r"absent cannot be read: No such file"):
        read_again().token_of_page()
