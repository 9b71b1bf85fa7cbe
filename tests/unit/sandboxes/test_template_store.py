"""Templates on disk: what is kept comes back, and whatever happened to it in between is noticed and named."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hyper.errors import DataLoss, NotFound, ResourceExhausted
from hyper.hypervisors.base import KernelImage
from hyper.sandboxes.maker import Shape
from hyper.sandboxes.sizing import Size
from hyper.sandboxes.template import MEMORY, STATE, Template
from hyper.sandboxes.template_store import TemplateStore
from hyper.system import memory_files

MIB = 1 << 20
SHAPE = Shape(KernelImage(Path("/k"), Path("/i"), ""), Size(16 * MIB, 128 * MIB, 1, 2), card=True)
KEY = "a" * 64
STATE_TEXT = b"the devices' state"


@pytest.fixture
def store(tmp_path: Path) -> TemplateStore:
    return TemplateStore(tmp_path / "templates")


@pytest.fixture
def template() -> Iterator[Template]:
    made = make(KEY)
    yield made
    made.close()


def make(key: str) -> Template:
    """16 MiB of memory with data in three places, 77 pages in all."""
    memory = memory_files.create(MEMORY, SHAPE.size.memory_bytes)
    for offset, text in ((0, b"first page"), (10 * MIB, os.urandom(300 << 10)), (16 * MIB - 4096, b"last page")):
        os.pwrite(memory, text, offset)
    state = memory_files.create(STATE, 0)
    os.write(state, STATE_TEXT)
    for fd in (memory, state):
        memory_files.seal(fd)
    return Template(key, SHAPE, memory, state, tuple(memory_files.extents(memory)), "1.2")


@pytest.fixture
def kept(store: TemplateStore, template: Template, tmp_path: Path) -> Path:
    """The folder of one that was saved."""
    store.save(template)
    return tmp_path / "templates" / KEY


def whole(template: Template) -> bytes:
    return os.pread(template.memory_fd, SHAPE.size.memory_bytes, 0)


def test_what_was_saved_comes_back_byte_for_byte_and_sealed(store: TemplateStore, template: Template) -> None:
    store.save(template)
    again = store.load(KEY, SHAPE)
    try:
        assert whole(again) == whole(template)
        assert os.pread(again.state_fd, 100, 0) == STATE_TEXT
        assert (again.parts, again.key, again.agent_version, again.shape) == (template.parts, KEY, "1.2", SHAPE)
        assert memory_files.stored_bytes(again.memory_fd) == memory_files.stored_bytes(template.memory_fd) < MIB
        for fd in (again.memory_fd, again.state_fd):
            with pytest.raises(PermissionError):
                os.pwrite(fd, b"x", 0)
            with pytest.raises(PermissionError):
                os.ftruncate(fd, 0)
    finally:
        again.close()


def test_only_what_was_used_is_kept_and_only_root_may_read_it(kept: Path) -> None:
    assert sorted(path.name for path in kept.iterdir()) == ["manifest.json", "memory", "state"]
    assert (kept / "memory").stat().st_size < MIB
    assert kept.parent.stat().st_mode & 0o777 == kept.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in kept.iterdir()} == {0o600}


def test_a_daemon_whose_files_are_everybodys_keeps_them_its_own(store: TemplateStore, template: Template) -> None:
    before = os.umask(0)
    try:
        store.save(template)
    finally:
        os.umask(before)
    store.load(KEY, SHAPE).close()


def test_there_is_none_of_another_key(store: TemplateStore, kept: Path) -> None:
    with pytest.raises(NotFound, match="no template bbbbbbbbbbbb"):
        store.load("b" * 64, SHAPE)


def test_what_a_killed_daemon_was_writing_goes_when_another_is_loaded(store: TemplateStore, kept: Path) -> None:
    unfinished = kept.parent / f".new-{'b' * 64}"
    unfinished.mkdir()
    (unfinished / "memory").write_bytes(bytes(MIB))
    store.load(KEY, SHAPE).close()
    assert list(kept.parent.iterdir()) == [kept]


def test_saving_replaces_and_removes_those_of_other_keys(store: TemplateStore, kept: Path) -> None:
    (kept.parent / ".new-cut-short").mkdir()
    (kept.parent / "a file of somebody's").touch()
    for key in ("b" * 64, "b" * 64):
        other = make(key)
        store.save(other)
        other.close()
        assert [path.name for path in kept.parent.iterdir()] == [key]


def _flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def _cut(path: Path, by: int = 1) -> None:
    os.truncate(path, path.stat().st_size - by)


def _change(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def _replace(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return replace


def _write(content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "manifest.json").write_bytes(content)

    return write


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "memory a byte shorter": (lambda folder: _cut(folder / "memory"), "shorter than it was"),
    "memory empty": (lambda folder: os.truncate(folder / "memory", 0), "shorter than it was"),
    "state a byte shorter": (lambda folder: _cut(folder / "state"), "shorter than it was"),
    "first byte of memory": (lambda folder: _flip(folder / "memory", 0), "memory file does not have the digest"),
    "a bit in the middle": (lambda folder: _flip(folder / "memory", 100_000), "memory file does not have the digest"),
    "a bit of the state": (lambda folder: _flip(folder / "state", 5), "state file does not have the digest"),
    "memory gone": (lambda folder: (folder / "memory").unlink(), "/memory is missing"),
    "state gone": (lambda folder: (folder / "state").unlink(), "/state is missing"),
    "manifest gone": (lambda folder: (folder / "manifest.json").unlink(), "/manifest.json is missing"),
    "manifest a byte shorter": (lambda folder: _cut(folder / "manifest.json"), "manifest is damaged"),
    "manifest empty": (_write(b""), "manifest is damaged"),
    "manifest garbage": (_write(os.urandom(300)), "manifest is damaged"),
    "manifest of zeroes": (_write(bytes(300)), "manifest is damaged"),
    "manifest too deep": (_write(b"[" * 100_000), "manifest is damaged"),
    "manifest another thing": (_write(b'{"version": 1}'), "manifest is damaged"),
    "an unknown member": (_change(more=1), "manifest is damaged"),
    "a member of another type": (_change(parts="all"), "manifest is damaged"),
    "a newer version": (_change(version=2), "another machine's"),
    "another key": (_change(key="b" * 64), "another machine's"),
    "another size": (_change(memory_bytes=8 * MIB), "another machine's"),
    "no state": (_change(state_bytes=0), "cannot be right"),
    "too much state": (_change(state_bytes=1 << 40), "cannot be right"),
    "parts beyond the end": (_change(parts=[[0, 16 * MIB + 1]]), "cannot be right"),
    "parts before the beginning": (_change(parts=[[-4096, 8192]]), "cannot be right"),
    "an empty part": (_change(parts=[[0, 0]]), "cannot be right"),
    "a negative part": (_change(parts=[[4096, -4096]]), "cannot be right"),
    "parts over each other": (_change(parts=[[0, 8192], [4096, 8192]]), "cannot be right"),
    "parts out of order": (_change(parts=[[8192, 4096], [0, 4096]]), "cannot be right"),
    "parts too large to count": (_change(parts=[[0, 10**30]]), "cannot be right"),
    "parts left out": (_change(parts=[]), "memory file does not have the digest"),
    "another digest": (_change(memory_sha256="0" * 64), "memory file does not have the digest"),
    "memory writable by others": (lambda folder: (folder / "memory").chmod(0o602), "others than root can write"),
    "manifest writable by a group": (lambda folder: (folder / "manifest.json").chmod(0o620), "others than root"),
    "folder writable by others": (lambda folder: folder.chmod(0o777), "others than root can write"),
    "folder above writable by others": (lambda folder: folder.parent.chmod(0o777), "others than root can write"),
    "state somebody else's": (lambda folder: os.chown(folder / "state", 1234, 0), "others than root can write"),
    "memory a link": (_replace("memory", lambda path: path.symlink_to("/dev/zero")), "others than root can write"),
    "memory a pipe": (_replace("memory", os.mkfifo), "is no file"),
    "state a folder": (_replace("state", lambda path: path.mkdir(mode=0o700)), "is no file"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_one_is_refused_by_name_and_makes_way_for_another(
    store: TemplateStore, template: Template, kept: Path, name: str
) -> None:
    damage, reason = DAMAGES[name]
    damage(kept)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DataLoss, match=reason) as refused:
        store.load(KEY, SHAPE)
    assert refused.value.message.startswith("template aaaaaaaaaaaa is refused") or "is refused: one of" in str(refused)
    assert len(os.listdir("/proc/self/fd")) == before
    kept.parent.chmod(0o700)
    store.save(template)
    store.load(KEY, SHAPE).close()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_something_else_in_its_place_is_refused_and_makes_way(
    store: TemplateStore, template: Template, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "templates"
    folder.mkdir()
    if kind == "file":
        (folder / KEY).write_text("?")
    else:
        (folder / KEY).symlink_to("/nowhere")
    with pytest.raises(DataLoss, match="is refused"):
        store.load(KEY, SHAPE)
    store.save(template)
    store.load(KEY, SHAPE).close()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    folder.mkdir(mode=0o700, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("size", ["100k", "312k"], ids=["for its memory", "for its manifest"])
def test_a_disk_without_room_keeps_nothing_half(template: Template, tmp_path: Path, size: str) -> None:
    folder = tmp_path / "templates"
    store = TemplateStore(folder, free_bytes_kept=0)
    with small_disk(folder, size):
        with pytest.raises(ResourceExhausted, match=f"cannot be kept in {folder}: .*[Nn]o "):
            store.save(template)
        assert list(folder.iterdir()) == []
        with pytest.raises(NotFound):
            store.load(KEY, SHAPE)


def test_what_must_stay_free_does(template: Template, tmp_path: Path) -> None:
    folder = tmp_path / "templates"
    with small_disk(folder, "3m"):
        store = TemplateStore(folder, free_bytes_kept=3 * MIB - (100 << 10))
        with pytest.raises(ResourceExhausted, match="no room for 0 MiB: 3 MiB are free, and 2 MiB must stay free"):
            store.save(template)
        assert list(folder.iterdir()) == []
        TemplateStore(folder, free_bytes_kept=2 * MIB).save(template)


def test_one_that_cannot_be_replaced_stays(template: Template, tmp_path: Path) -> None:
    store = TemplateStore(tmp_path / "templates", free_bytes_kept=0)
    with small_disk(tmp_path / "templates", "500k"):
        store.save(template)
        with pytest.raises(ResourceExhausted):
            store.save(template)
        store.load(KEY, SHAPE).close()


def test_a_folder_that_cannot_be_made_is_told(template: Template, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceExhausted, match=r"cannot be kept in .*/file/templates: Not a directory"):
        TemplateStore(tmp_path / "file" / "templates").save(template)
