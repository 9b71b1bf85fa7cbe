import pytest

from hyper.errors import InvalidArgument
from hyper.oci import digest, image_config


def test_unknown_members_keep_their_bytes_and_so_the_id() -> None:
    raw = (
        b'{"os":"linux","future":{"x":1},"rootfs":{"type":"layers","diff_ids":[]},"config":{"Cmd":null,"Env":["A=1"]}}'
    )
    config = image_config.decode(raw)
    assert config.raw == raw
    assert config.id == digest.of(raw)
    assert config.container_config.env == ["A=1"]
    assert config.container_config.cmd_words is None


def test_single_string_commands_of_old_images_are_read() -> None:
    assert image_config.decode(b'{"config":{"Cmd":"sh"}}').container_config.cmd_words == ["sh"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b'{"os":"windows"}',
        b'{"rootfs":{"diff_ids":["sha256:zz"]}}',
        b'{"created":"yesterday"}',
        b"[" * 100_000,
    ],
)
def test_bad_configurations_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidArgument):
        image_config.decode(raw)


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2024-01-31T12:00:00.123456789Z", 1_706_702_400_123_456_789),
        ("2024-01-31T13:00:00+01:00", 1_706_702_400_000_000_000),
        ("1969-12-31T23:59:59.5Z", -500_000_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000_000_000),
    ],
)
def test_times_are_read(text: str, time_ns: int) -> None:
    assert image_config.parse_time_ns(text) == time_ns


def test_times_survive_a_round_trip() -> None:
    assert (
        image_config.parse_time_ns(image_config.format_time_ns(1_706_702_400_123_456_789)) == 1_706_702_400_123_456_789
    )


def test_chain_id_hashes_the_chain_below() -> None:
    first, second = digest.of(b"1"), digest.of(b"2")
    assert digest.chain_id([]) == ""
    assert digest.chain_id([first]) == first
    assert digest.chain_id([first, second]) == digest.of(f"{first} {second}".encode())
