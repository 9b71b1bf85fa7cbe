import io
import tarfile
from pathlib import Path

import pytest

from hyper.errors import FailedPrecondition
from hyper.images import builtin
from hyper.images.store import ImageStore
from hyper.system.database import Database


def test_root_is_laid_out_like_the_official_image() -> None:
    content = builtin.root_tar(b"binary", ["sh", "ls", "[", "busybox"])
    assert content == builtin.root_tar(b"binary", ["[", "ls", "sh"])
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = {member.name: member for member in archive}
    assert members["bin/sh"].islnk()
    assert members["bin/["].linkname == "bin/busybox"
    assert members["tmp"].mode == 0o1777
    assert members["root"].mode == 0o700
    assert members["etc/shadow"].mode == 0o600


async def test_installing_twice_gives_one_image_with_the_same_id(tmp_path: Path) -> None:
    if not builtin.BUSYBOX.exists():
        pytest.skip("busybox-static is not installed")
    ids = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        database = Database(tmp_path / name / "state.db")
        store = await ImageStore.open(tmp_path / name, database)
        made = await builtin.install(store)
        assert await builtin.install(store) == store.resolve("busybox") == made
        assert made.config.container_config.cmd_words == ["sh"]
        ids.append(made.id)
        await store.close()
        database.close()
    assert ids[0] == ids[1]


async def test_a_missing_busybox_is_named(tmp_path: Path) -> None:
    database = Database(tmp_path / "state.db")
    store = await ImageStore.open(tmp_path, database)
    with pytest.raises(FailedPrecondition, match="busybox-static"):
        await builtin.install(store, tmp_path / "missing")
    database.close()
