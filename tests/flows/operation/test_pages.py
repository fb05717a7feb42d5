"""The reports' server gives what lies in its folder, to this machine, and nothing else."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from flows.operation.pages import serving_reports
from pipeline.errors import ConfigError


def test_pages_are_served_read_only_and_nothing_beside_them(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("no")
    with serving_reports(tmp_path, 0) as url:
        folder = tmp_path / "reports" / "tiny-1"
        (folder / "objects").mkdir(parents=True)
        (folder / "index.html").write_text("<p>hello</p>")
        (folder / "objects" / "739.html").write_text("<p>an object</p>")
        (tmp_path / "reports" / "link").symlink_to(tmp_path / "secret")
        with httpx.Client(base_url=url, trust_env=False) as client:
            page = client.get("/tiny-1/")
            assert (page.text, page.headers["Content-Type"]) == ("<p>hello</p>", "text/html")
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]
            assert "tiny-1" in client.get("/").text
            assert client.get("/tiny-1/objects/739.html").text == "<p>an object</p>"
            for outside in ("/link", "/../secret", "/%2e%2e/secret", "/missing.html"):
                assert client.get(outside).status_code == 404
            assert client.get("/tiny-1/index.html", headers={"Host": "evil.example"}).status_code == 421
            assert client.post("/tiny-1/index.html").status_code == 501
            assert client.head("/tiny-1/index.html", headers={"Host": "localhost:9"}).status_code == 200


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with serving_reports(tmp_path, 0) as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(ConfigError, match=rf"port {port}.*--reports-port"), serving_reports(tmp_path, port):
            pass
