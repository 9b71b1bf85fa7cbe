"""The small pure parts: times, filters, framing, detach keys, names of versions, error table, launch errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyper import errors
from hyper.api.docker import detach_keys, filters, framing, times, versions
from hyper.api.docker.errors import STATUS, response_for, status_of
from hyper.api.docker.launch_errors import exec_failure_text, launch_error
from hyper.api.docker.log_stream import tail_of


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "Less than a second"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (60, "About a minute"),
        (180, "3 minutes"),
        (3600, "About an hour"),
        (3600 * 47, "47 hours"),
        (86400 * 3, "3 days"),
        (86400 * 15, "2 weeks"),
        (86400 * 70, "2 months"),
        (86400 * 800, "2 years"),
    ],
)
def test_durations_read_as_docker_ps_shows_them(seconds: float, text: str) -> None:
    assert times.human_duration(seconds) == text


def test_times_are_written_as_go_writes_them() -> None:
    assert times.rfc3339_nano(0) == "0001-01-01T00:00:00Z"
    assert times.rfc3339_nano(1_700_000_000_120_000_000) == "2023-11-14T22:13:20.12Z"
    assert times.rfc3339_nano(1_700_000_000_000_000_000) == "2023-11-14T22:13:20Z"
    assert times.rfc3339_nano_fixed(1_700_000_000_120_000_000) == "2023-11-14T22:13:20.120000000Z"


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("", 0),
        ("1700000000", 1_700_000_000_000_000_000),
        ("1700000000.5", 1_700_000_000_500_000_000),
        ("1700000000.000000001", 1_700_000_000_000_000_001),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000_000_000),
        ("2023-11-14T23:13:20.5+01:00", 1_700_000_000_500_000_000),
        ("1m30s", 910_000_000_000),
    ],
)
def test_times_are_read_in_every_form_that_clients_send(text: str, time_ns: int) -> None:
    assert times.parse_timestamp_ns(text, 1_000_000_000_000) == time_ns


@pytest.mark.parametrize("text", ["yesterday", "1.2.3", "2023-13-01T00:00:00Z", "1x", "٣"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidArgument):
        times.parse_timestamp_ns(text, 0)


def test_filters_are_read_in_both_forms() -> None:
    old = filters.parse('{"label": ["a", "b=c"]}', {"label"})
    new = filters.parse('{"label": {"a": true, "b=c": true, "d": false}}', {"label"})
    assert old == new == {"label": ("a", "b=c")}


@pytest.mark.parametrize("text", ['{"nope": ["x"]}', "[", '{"label": 3}', '{"label": {"a": "b"}}'])
def test_bad_filters_are_refused(text: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="invalid filter"):
        filters.parse(text, {"label"})


def test_labels_match_by_key_and_by_value() -> None:
    labels = {"a": "1", "b": ""}
    assert filters.labels_match(("a", "b"), labels)
    assert filters.labels_match(("a=1", "b="), labels)
    assert not filters.labels_match(("a=2",), labels)
    assert not filters.labels_match(("a", "c"), labels)


def test_a_frame_header_is_stream_padding_and_big_endian_size() -> None:
    assert framing.header("stdout", 3) == b"\x01\x00\x00\x00\x00\x00\x00\x03"
    assert framing.header("stderr", 0x01020304) == b"\x02\x00\x00\x00\x01\x02\x03\x04"


def test_the_media_type_tells_multiplexed_from_1_42_on() -> None:
    assert framing.media_type(multiplexed=True, version=(1, 42)) == "application/vnd.docker.multiplexed-stream"
    assert framing.media_type(multiplexed=True, version=(1, 41)) == "application/vnd.docker.raw-stream"
    assert framing.media_type(multiplexed=False, version=(1, 50)) == "application/vnd.docker.raw-stream"


@pytest.mark.parametrize(
    ("text", "sequence"),
    [
        ("", b"\x10\x11"),
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("a", b"a"),
        ("ctrl-@,ctrl-[,ctrl-_", b"\x00\x1b\x1f"),
        ("ctrl-A,z", b"\x01z"),
    ],
)
def test_detach_keys_are_read(text: str, sequence: bytes) -> None:
    assert detach_keys.parse(text) == sequence


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-pp", "ab", "ctrl-p,,", "ctrl-1", "ü"])
def test_bad_detach_keys_are_refused(text: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="Invalid detach keys"):
        detach_keys.parse(text)


def test_the_detach_sequence_is_found_across_pieces_and_kept_from_the_process() -> None:
    scanner = detach_keys.DetachScanner(b"\x10\x11")
    assert scanner.feed(b"ls\x10") == (b"ls", False)
    assert scanner.feed(b"\x11rest") == (b"", True)


def test_a_begun_sequence_that_was_none_reaches_the_process() -> None:
    scanner = detach_keys.DetachScanner(b"\x10\x11")
    assert scanner.feed(b"\x10") == (b"", False)
    assert scanner.feed(b"a\x10\x10b") == (b"\x10a\x10\x10b", False)


@given(st.lists(st.binary(max_size=8)))
def test_without_the_sequence_every_byte_passes_in_order(pieces: list[bytes]) -> None:
    cleaned = [piece.replace(b"\x11", b"") for piece in pieces]
    scanner = detach_keys.DetachScanner(b"\x10\x11")
    passed = b"".join(scanner.feed(piece)[0] for piece in cleaned)
    whole = b"".join(cleaned)
    assert whole.startswith(passed)
    assert whole[len(passed) :] in (b"", b"\x10")


def test_versions_are_taken_from_the_path_and_bounded() -> None:
    assert versions.split_version("/v1.41/info") == ((1, 41), "/info")
    assert versions.split_version("/info") == ((1, 50), "/info")
    assert versions.split_version("/v1.41") == ((1, 50), "/v1.41")
    with pytest.raises(
        errors.InvalidArgument, match=r"client version 1\.23 is too old\. Minimum supported API version is 1\.24"
    ):
        versions.split_version("/v1.23/info")
    with pytest.raises(
        errors.InvalidArgument, match=r"client version 1\.51 is too new\. Maximum supported API version is 1\.50"
    ):
        versions.split_version("/v1.51/info")


def test_every_error_kind_has_a_status() -> None:
    assert set(errors.KINDS.values()) == set(STATUS)
    assert status_of(errors.AlreadyExists("x")) == 409

    class Special(errors.NotFound):
        pass

    assert status_of(Special("x")) == 404


def test_not_modified_has_no_body_and_errors_have_a_message() -> None:
    assert response_for(errors.NotModified("x")).body == b""
    assert response_for(errors.Unsupported("not there")).body == b'{"message":"not there"}\n'
    bug = response_for(ZeroDivisionError("division by zero"))
    assert bug.status == 500
    assert b"ZeroDivisionError" in bug.body


@pytest.mark.parametrize(
    ("error", "program", "words"),
    [
        (errors.NotFound("no such file"), "nosuch", 'exec: "nosuch": executable file not found in $PATH'),
        (errors.NotFound("x"), "/no/such", 'exec: "/no/such": no such file or directory'),
        (
            errors.NotFound('exec: "a": executable file not found in $PATH'),
            "a",
            "executable file not found in $PATH: unknown",
        ),
        (errors.PermissionDenied("EACCES"), "/etc/passwd", 'exec: "/etc/passwd": permission denied'),
        (errors.PermissionDenied('exec: "/etc": is a directory'), "/etc", "is a directory"),
        (errors.InvalidArgument("unable to find user x"), "a", "unable to find user x"),
    ],
)
def test_launch_errors_have_the_words_that_the_docker_cli_looks_for(
    error: errors.HyperError, program: str, words: str
) -> None:
    refused = launch_error(error, program)
    assert refused is not None
    assert words in refused.message
    assert refused.message.startswith("failed to create task for container: ")
    assert words in (exec_failure_text(error, program) or "")


def test_other_errors_of_start_are_not_the_programs_fault() -> None:
    assert launch_error(errors.Unavailable("QEMU did not start"), "a") is None


@pytest.mark.parametrize(("text", "tail"), [("all", None), ("", None), ("5", 5), ("0", 0), ("-3", None), ("x", None)])
def test_tail_is_a_number_or_everything(text: str, tail: int | None) -> None:
    assert tail_of(text) == tail
