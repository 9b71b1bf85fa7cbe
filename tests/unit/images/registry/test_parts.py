"""Proxies, endpoints, certificates, challenges and platforms: the parts without a registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyper.errors import FailedPrecondition, InvalidArgument
from hyper.images.registry.certificates import context
from hyper.images.registry.endpoints import endpoints
from hyper.images.registry.proxies import Proxies, shown
from hyper.images.registry.settings import RegistrySettings
from hyper.oci import platform
from hyper.oci.descriptor import Descriptor, Platform
from hyper.oci.distribution import challenges, refusal

PROXY = {
    "HTTPS_PROXY": "http://p:3128",
    "http_proxy": "q:80",
    "NO_PROXY": "10.0.0.0/8,.inner, exact.example:5000,192.0.2.7",
}


@pytest.mark.parametrize(
    ("scheme", "host", "port", "wanted"),
    [
        ("https", "r.example", 443, "http://p:3128"),
        ("http", "r.example", 80, "http://q:80"),
        ("https", "localhost", 5000, None),
        ("https", "127.0.0.9", 5000, None),
        ("https", "10.1.2.3", 443, None),
        ("https", "192.0.2.7", 443, None),
        ("https", "a.inner", 443, None),
        ("https", "inner", 443, "http://p:3128"),
        ("https", "exact.example", 5000, None),
        ("https", "exact.example", 443, "http://p:3128"),
    ],
)
def test_proxies_as_go_reads_them(scheme: str, host: str, port: int, wanted: str | None) -> None:
    assert Proxies(PROXY).for_url(scheme, host, port) == wanted


def test_a_proxys_password_is_not_shown() -> None:
    assert shown("http://me:secret@p:1") == "http://xxxxx:xxxxx@p:1"
    assert shown("http://p:1") == "http://p:1"


@pytest.mark.parametrize(
    ("domain", "wanted"),
    [
        ("docker.io", ["https://m", "https://registry-1.docker.io"]),
        ("r.invalid", ["https://r.invalid"]),
        ("localhost:5000", ["https://localhost:5000", "http://localhost:5000"]),
        ("[::1]:5000", ["https://[::1]:5000", "http://[::1]:5000"]),
        ("203.0.113.9:5000", ["https://203.0.113.9:5000", "http://203.0.113.9:5000"]),
        ("203.0.114.9:5000", ["https://203.0.114.9:5000"]),
        ("named.invalid:7", ["https://named.invalid:7", "http://named.invalid:7"]),
    ],
)
async def test_plain_http_only_where_it_is_allowed(domain: str, wanted: list[str]) -> None:
    settings = RegistrySettings(mirrors=("https://m/",), insecure=("203.0.113.0/24", "named.invalid:7"))
    found = await endpoints(domain, settings, mirrors=True)
    assert [one.url for one in found] == wanted
    assert all(one.verify == (len(wanted) == 1 or "docker" in domain) for one in found)


def test_a_certificate_without_its_key(tmp_path: Path) -> None:
    folder = tmp_path / "r:5000"
    folder.mkdir()
    (folder / "x.cert").write_text("")
    with pytest.raises(FailedPrecondition, match=r"missing key x\.key for client certificate x\.cert"):
        context([tmp_path], "r:5000", verify=True)
    (folder / "x.cert").rename(folder / "x.crt")
    with pytest.raises(FailedPrecondition, match="cannot be used"):
        context([tmp_path], "r:5000", verify=True)
    context([tmp_path], "other:5000", verify=True)


def test_challenges() -> None:
    (bearer, basic) = challenges(['Bearer realm="https://a/t",service="x, y",scope="a:b:pull,push"', "Basic realm=z"])
    assert bearer.parameters == {"realm": "https://a/t", "service": "x, y", "scope": "a:b:pull,push"}
    assert (basic.scheme, basic.parameters) == ("basic", {"realm": "z"})
    assert challenges(["", "Bearer ,,,=", 'Bearer a="'])[2].parameters == {}


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (404, b'{"errors":[{"code":"NAME_UNKNOWN"}]}', "name unknown: repository name not known to registry"),
        (401, b'{"details":"incorrect username or password"}', "unauthorized: incorrect username or password"),
        (401, b"no", "unauthorized: authentication required"),
        (500, b"<html>", "received unexpected HTTP status: 500 Odd"),
        (400, b"<html>", "error parsing HTTP 400 response body: '<html>'"),
        (400, b'{"errors":[{"code":"A","message":"b"},{"code":"C"}]}', "errors:\na: b\nc: unknown error\n"),
    ],
)
def test_error_answers_in_words(status: int, body: bytes, text: str) -> None:
    assert refusal(status, "Odd", body, []).text == text


def test_platforms() -> None:
    assert platform.parse("linux/x86_64") == Platform("amd64", "linux")
    assert platform.text(platform.parse("linux/arm/7")) == "linux/arm/v7"
    with pytest.raises(InvalidArgument, match="cannot parse platform specifier"):
        platform.parse("linux/a/b/c")
    with pytest.raises(InvalidArgument, match="is an invalid platform"):
        platform.parse("lin ux/a")
    v5, v6, v7, plain = (
        Descriptor(name, 1, platform=Platform("arm", "linux", name if name != "none" else ""))
        for name in ("v5", "v6", "v7", "none")
    )
    assert platform.best([v5, v6, v7, plain], platform.parse("linux/arm/v6")) == [v6, v5]
    assert platform.best([v5, plain], platform.parse("linux/arm")) == [plain, v5]
