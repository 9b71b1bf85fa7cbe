"""Names as Docker normalises them (cases follow the tables of distribution/reference's documentation)."""

import pytest

from hyper.errors import InvalidArgument
from hyper.oci import reference


@pytest.mark.parametrize(
    ("given", "canonical", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox", "busybox"),
        ("team/app", "docker.io/team/app", "team/app"),
        ("localhost/app", "localhost/app", "localhost/app"),
        ("localhost:5000/app:v1", "localhost:5000/app:v1", "localhost:5000/app:v1"),
        ("reg.example.com/a/b/c", "reg.example.com/a/b/c", "reg.example.com/a/b/c"),
        ("[fd00::1]:5000/app", "[fd00::1]:5000/app", "[fd00::1]:5000/app"),
        ("UPPER/app", "UPPER/app", "UPPER/app"),
        ("a__b--c.d", "docker.io/library/a__b--c.d", "a__b--c.d"),
        ("app@sha256:" + "a" * 64, "docker.io/library/app@sha256:" + "a" * 64, "app@sha256:" + "a" * 64),
        ("app:v1@sha256:" + "a" * 64, "docker.io/library/app:v1@sha256:" + "a" * 64, "app:v1@sha256:" + "a" * 64),
    ],
)
def test_names_are_normalised(given: str, canonical: str, familiar: str) -> None:
    parsed = reference.parse(given)
    assert (str(parsed), parsed.familiar) == (canonical, familiar)
    assert reference.parse(canonical) == parsed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "invalid reference format"),
        ("Busybox", "invalid reference format: repository name (library/Busybox) must be lowercase"),
        ("team/App", "invalid reference format: repository name (team/App) must be lowercase"),
        ("app:", "invalid reference format"),
        ("app:-x", "invalid reference format"),
        ("a..b", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("/app", "invalid reference format"),
        ("app@sha256:abc", "invalid reference format"),
        ("app@sha256:" + "a" * 63, "invalid checksum digest length"),
        ("a" * 64, f"invalid repository name ({'a' * 64}), cannot specify 64-byte hexadecimal strings"),
        ("x/" + "a" * 256, "repository name must not be more than 255 characters"),
        ("app:" + "t" * 129, "invalid reference format"),
        ("app\n", "invalid reference format"),
        ("app:v1\n", "invalid reference format"),
    ],
)
def test_bad_names_are_refused_in_dockers_words(given: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        reference.parse(given)
    assert caught.value.message == message


def test_default_tag_is_latest_unless_a_digest_is_given() -> None:
    assert reference.parse("a").with_default_tag().familiar == "a:latest"
    assert reference.parse("a@sha256:" + "0" * 64).with_default_tag().tag == ""
