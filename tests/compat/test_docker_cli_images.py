"""images, load, import, tag, rmi, history, image inspect with the real CLI."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from tests.hyperd import Door, needs_docker_cli

pytestmark = pytest.mark.usefixtures("cli")


@pytest.fixture(scope="module")
def cli() -> None:
    needs_docker_cli()


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def saved_image(tag: str, text: bytes) -> bytes:
    """A ``docker save`` archive of one layer."""
    layer = tar_of({"text": text})
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["cat", "/text"], "Labels": {"made": "here"}},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
            "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "a test"}],
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [tag], "Layers": ["layer.tar"]}]).encode()
    return tar_of({"layer.tar": layer, name: config, "manifest.json": manifest})


def test_load_from_stdin_and_from_a_file(door: Door, tmp_path: Path) -> None:
    archive = saved_image("loaded:1", b"one")
    assert door.out("load", input=archive) == "Loaded image: loaded:1"
    (tmp_path / "a.tar").write_bytes(saved_image("loaded:2", b"two"))
    assert door.out("load", "-i", str(tmp_path / "a.tar")).endswith("Loaded image: loaded:2")
    assert door.out("images", "--format", "{{.Tag}}", "loaded").split() == ["2", "1"] or set(
        door.out("images", "--format", "{{.Tag}}", "loaded").split()
    ) == {"1", "2"}
    shown = json.loads(door.out("image", "inspect", "loaded:1"))[0]
    assert shown["Config"]["Labels"] == {"made": "here"}
    assert shown["Config"]["Cmd"] == ["cat", "/text"]
    assert "a test" in door.out("history", "--no-trunc", "loaded:1")
    door.docker("rmi", "loaded:1", "loaded:2")
    assert door.out("images", "-q", "loaded") == ""


def test_a_truncated_archive_is_refused(door: Door) -> None:
    archive = saved_image("broken:1", b"x" * 5000)
    result = door.docker("load", input=archive[: len(archive) // 2], check=False)
    assert result.returncode == 1
    assert door.out("images", "-q", "broken") == ""


def test_import_with_changes(door: Door) -> None:
    root = tar_of({"text": b"hello"})
    identifier = door.out(
        "import", "-c", 'CMD ["cat", "/text"]', "-c", "ENV a=b", "-m", "note", "-", "imported:1", input=root
    )
    assert identifier.startswith("sha256:")
    shown = json.loads(door.out("image", "inspect", "imported:1"))[0]
    assert shown["Id"] == identifier
    assert shown["Config"]["Cmd"] == ["cat", "/text"]
    assert "a=b" in shown["Config"]["Env"]
    assert shown["Comment"] == "note"
    door.docker("rmi", "imported:1")


def test_tag_and_rmi_count_names(door: Door) -> None:
    door.docker("import", "-", "counted:1", input=tar_of({"a": b"b"}))
    door.docker("tag", "counted:1", "localhost:5000/counted:2")
    assert door.out("rmi", "counted:1") == "Untagged: counted:1"
    removed = door.out("rmi", "localhost:5000/counted:2").splitlines()
    assert removed[0] == "Untagged: localhost:5000/counted:2"
    assert any(line.startswith("Deleted: sha256:") for line in removed)
    assert door.docker("tag", "nosuch", "x", check=False).returncode == 1
    assert door.docker("rmi", "nosuch", check=False).returncode == 1


def test_an_image_in_use_is_kept(door: Door) -> None:
    door.docker("import", "-", "used:1", input=tar_of({"a": b"b"}))
    with door.name() as name:
        door.docker("create", "--name", name, "used:1", "/a")
        result = door.docker("rmi", "used:1", check=False)
        assert result.returncode == 1
        assert b"is using" in result.stderr
    door.docker("rmi", "used:1")
