"""A guest's kernel mounts an image that Hyper wrote, and tells every file's metadata and hash as the tar has them."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest
from tests.integration.image_listing import IMPLIED, SCRIPT, expected, lines, make_root_tar
from tests.shell_guest import Shell, answers, shell_image

from hyper.hypervisors.base import DiskSpec, MachineSpec
from hyper.hypervisors.qemu.driver import QemuHypervisor
from hyper.hypervisors.qemu.settings import AcceleratorChoice, QemuSettings
from hyper.images.layers.build import Layer, build_disk
from hyper.images.limits import Budget, ImageLimits
from hyper.system.cgroups import Cgroups
from hyper.system.identities import Identities, UidRange

pytestmark = pytest.mark.vm
MIB = 1 << 20


async def test_a_guests_kernel_sees_what_the_tar_says(tmp_path: Path) -> None:
    kernel = shell_image(tmp_path)
    tar = make_root_tar(tmp_path / "root.tar", small_files=60)
    image = tmp_path / "image.erofs"
    descriptor = os.open(image, os.O_RDWR | os.O_CREAT, 0o600)
    build_disk(
        [Layer(tar, "", False)],
        descriptor,
        tmp_path,
        Budget(ImageLimits(), tmp_path),
        lambda number, expanded, read: None,
    )
    os.close(descriptor)

    root_id = f"test-{secrets.token_hex(4)}"
    settings = QemuSettings(
        root_id=root_id, state_dir=tmp_path, runtime_dir=tmp_path, accelerator=AcceleratorChoice.TCG, qmp_timeout_s=20
    )
    identities = Identities(tmp_path / "uids", UidRange())
    driver = QemuHypervisor(settings, identities, lambda: kernel, answers)
    try:
        directory = tmp_path / "vm"
        directory.mkdir(mode=0o711)
        spec = MachineSpec(secrets.token_hex(16), directory, kernel, 256 * MIB, 1024 * MIB, 1, 2, identities.allocate())
        vmm = await driver.launch(spec)
        async with Shell(vmm.agent_socket) as shell:
            await shell.run("/bin/busybox --install -s /bin; mkdir /image")
            where = await vmm.attach_disk(DiskSpec("image", image, readonly=True))
            device = f"/sys/class/scsi_device/*:{where.channel}:{where.target}:{where.lun}/device/block"
            await shell.run(f"until [ -e {device} ]; do usleep 10000; done")
            assert await shell.run(f"mount -t erofs -o ro /dev/$(ls {device}) /image") == ""
            script = SCRIPT.replace('"$1"', "/image").replace("\n", " ")
            printed = set((await shell.run(script, timeout_s=100)).splitlines())
        await vmm.kill()
    finally:
        await driver.reap_strays(frozenset())
        Cgroups(root_id).remove_group()
        identities.close()

    wanted = {path: values for path, values in expected(tar).items() if path and path not in IMPLIED}
    implied = {"./" + os.fsdecode(path) for path in IMPLIED} | {"."}
    assert {line for line in printed if line.rsplit(" ", 1)[1] not in implied} == lines(wanted)
