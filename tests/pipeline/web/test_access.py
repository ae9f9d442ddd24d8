"""Who is let in: the token, the cookie, Host, Origin, and the token of forms."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.web.access import Access
from tests.pipeline.web.support import BASE, TOKEN, reader, site_of, stranger

PAUSE = "/d/tickets/runs/first/pause"


def test_nothing_is_shown_without_the_token(sink: Path) -> None:
    client = stranger(site_of(sink, sink))
    for path in ("/", "/d/tickets/rows", "/d/tickets/partitions", "/nowhere"):
        refused = client.get(path)
        assert refused.status_code == 401, path
        assert "tickets" not in refused.text
    assert client.get("/?token=wrong").status_code == 401
    assert client.get("/?token=").status_code == 401


def test_the_token_becomes_a_cookie_and_leaves_the_address(sink: Path) -> None:
    client = stranger(site_of(sink, sink))
    answer = client.get(f"/d/tickets/rows?token={TOKEN}&find=a%26b", follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/d/tickets/rows?find=a%26b"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=lax" in cookie.lower()
    assert TOKEN not in cookie
    assert client.get("/d/tickets/rows").status_code == 200


def test_a_redirect_never_leads_to_another_host(sink: Path) -> None:
    client = stranger(site_of(sink, sink))
    for path in ("//evil.example/", "/%5Cevil.example/", "///evil.example", "/%2F%2Fevil.example"):
        location = client.get(f"{BASE}{path}?token={TOKEN}", follow_redirects=False).headers["location"]
        assert location[0] == "/", path
        assert location[1] not in "/\\", path


def test_a_script_may_send_the_token_as_a_header(sink: Path) -> None:
    client = stranger(site_of(sink, sink))
    assert client.get("/", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert client.get("/", headers={"authorization": "Bearer wrong"}).status_code == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8420", "127.0.0.1.evil.example", "", "10.0.0.5", "a@b:x"]
)
def test_a_foreign_host_is_refused_even_with_the_cookie(sink: Path, host: str) -> None:
    assert reader(site_of(sink, sink)).get("/", headers={"host": host}).status_code == 421


def test_hosts_that_lead_to_the_page() -> None:
    here = Access(token=TOKEN, host="127.0.0.1", port=1, allowed=frozenset({"data.example"}))
    assert all(map(here.is_host, ("localhost:1", "127.0.0.1:1", "[::1]:1", "data.example", "DATA.example:443")))
    everywhere = Access(token=TOKEN, host="0.0.0.0", port=1)
    assert everywhere.is_host("10.0.0.5:1")
    assert not everywhere.is_host("rebound.example:1")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:3000"},  # another program of this machine
        {},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_form_of_another_origin_is_refused(sink: Path, headers: dict[str, str]) -> None:
    site = site_of(sink, sink)
    answer = reader(site).post(PAUSE, data={"csrf": site.access.csrf}, headers=headers)
    assert answer.status_code == 403
    assert answer.text == "Only the page itself may change something.\n"


def test_another_site_may_link_to_the_page_and_not_load_it(sink: Path) -> None:
    client = reader(site_of(sink, sink))
    foreign = {"sec-fetch-site": "cross-site"}
    assert (
        client.get("/", headers={**foreign, "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}).status_code == 403
    )
    frame = {**foreign, "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}
    assert client.get("/", headers=frame).status_code == 403
    followed = {**foreign, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert client.get("/", headers=followed).status_code == 200


def test_every_answer_forbids_foreign_code_frames_and_caches(sink: Path) -> None:
    client = reader(site_of(sink, sink))
    for path in ("/", "/d/tickets/rows", "/static/page.js", "/nowhere", "/d/nothing/rows"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
