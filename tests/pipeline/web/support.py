"""The page in this process: a client that has the cookie, over the sinks of a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from pipeline.web.access import Access
from pipeline.web.application import application
from pipeline.web.site import Recently, Site

TOKEN = "a-token-of-the-tests"
BASE = "http://127.0.0.1:8420"


def site_of(folder: Path, *sinks: Path | str, **access: Any) -> Site:
    """A site that reads everything at each request."""
    settings = {"token": TOKEN, "host": "127.0.0.1", "port": 8420, **access}
    return Site(folder, Access(**settings), tuple(map(str, sinks)), Recently(seconds=0))


def stranger(site: Site) -> TestClient:
    """A client without the cookie."""
    return TestClient(application(site), base_url=BASE, raise_server_exceptions=False)


def reader(site: Site) -> TestClient:
    client = stranger(site)
    assert client.get(f"/?token={TOKEN}").status_code == 200
    return client


def text_of(page: str) -> str:
    """What a reader sees of a page, in one line."""
    body = re.sub(r"<(script|datalist)[^>]*>.*?</\1>", " ", page.split("<main>", 1)[1], flags=re.S)
    import html

    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def tables_of(page: str) -> Iterator[list[list[str]]]:
    """The cells of each table, its head first."""
    for table in re.findall(r"<table>.*?</table>", page, re.S):
        lines = re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.S)
        yield [
            [text_of(f"<main>{cell}") for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.S)]
            for line in lines
        ]


def form_of(page: str, action: str) -> dict[str, str]:
    """The hidden fields of the form that goes to an address."""
    found = re.search(rf'<form[^>]*action="{re.escape(action)}"[^>]*>(.*?)</form>', page, re.S)
    if found is None:
        pytest.fail(f"no form to {action}")
    return dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', found[1]))
