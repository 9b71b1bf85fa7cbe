"""QEMU's command line: a pure function of the machine, the probe's findings and descriptor numbers, tested against
golden files.

Everything QEMU may touch comes by descriptor: kernel and initrd (``/proc/self/fd``, which needs no path), the listening
sockets of QMP and the agent, taps. Disks are plugged later (:mod:`hyper.hypervisors.qemu.disks`).

The machine's shape is made for what comes later: q35's root bus refuses hot-plug, so there are spare root ports;
``maxcpus`` and ``maxmem`` are set from the start.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hyper.hypervisors.base import Accelerator, HypervisorInfo, MachineSpec, MemoryFile

AGENT_PORT = "org.hyper.agent.0"
GROWTH = "growth"
SPARE_PORTS = 4
_MIB = 1 << 20
_MACHINE = "q35,hpet=off,vmport=off,smbus=off,sata=off,dump-guest-core=off"
_MEMORY_SLOTS = 1
"""For DIMMs; virtio-mem grows without any. Each slot is an ACPI device that every boot interprets: 16 cost about
80 ms with Debian's kernel under TCG."""
_ALIGNMENT_MIB = 1024
GUEST_BLOCK_MIB = 128
"""What Linux on x86-64 adds memory by (Documentation/admin-guide/mm/memory-hotplug.rst)."""
_TCG_CACHE_MIB = 64
"""Bounds the translation cache, which QEMU would let grow to a gigabyte per VM."""
_TCG_CPU_WITHOUT = "-erms"
"""With "fast" string instructions a kernel copies and clears memory by ``rep movsb``, which TCG runs byte by byte."""


@dataclass(frozen=True)
class Descriptors:
    """Descriptor numbers as the new process has them. ``taps`` in the order of ``MachineSpec.nics``."""

    kernel: int
    initrd: int
    qmp: int
    agent: int
    taps: tuple[int, ...] = ()
    memory: int | None = None


def marker(root_id: str, sandbox_id: str) -> str:
    """The argument by which a VMM of ours is found in /proc."""
    return f"guest=hyper:{root_id}:{sandbox_id}"


def sandbox_of(argv: list[str], root_id: str) -> str | None:
    """The sandbox whose VMM has this command line; None when it is not one of this root's."""
    prefix = marker(root_id, "")
    for argument in argv:
        if argument.startswith(prefix):
            return argument[len(prefix) :]
    return None


def build(spec: MachineSpec, info: HypervisorInfo, fds: Descriptors, root_id: str) -> list[str]:
    """The arguments, program first."""
    return [
        str(info.binary),
        *("-name", marker(root_id, spec.sandbox_id)),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", f"{_MACHINE},memory-backend=ram0" if spec.memory_file else _MACHINE),
        *_firmware(spec, info),
        *_processor(spec, info),
        *_memory(spec, fds),
        *("-kernel", f"/proc/self/fd/{fds.kernel}", "-initrd", f"/proc/self/fd/{fds.initrd}"),
        *("-append", kernel_command_line(spec, info)),
        *("-chardev", f"socket,id=qmp,fd={fds.qmp},server=on,wait=off", "-mon", "chardev=qmp,mode=control"),
        # stdout is the console's bounded log; a file given by name would be truncated, which its seals forbid.
        *("-chardev", "stdio,id=console,signal=off", "-device", "isa-serial,chardev=console"),
        *("-device", "virtio-serial-pci,id=serial0,max_ports=2"),
        *("-chardev", f"socket,id=agent,fd={fds.agent},server=on,wait=off"),
        *("-device", f"virtserialport,bus=serial0.0,nr=1,chardev=agent,name={AGENT_PORT}"),
        *("-device", "virtio-scsi-pci,id=scsi0"),
        *("-object", "rng-builtin,id=rng0", "-device", "virtio-rng-pci,rng=rng0"),
        *_nics(spec, fds),
        *_spare_ports(),
        *_growth(spec),
        *(("-incoming", "defer") if spec.restore else ()),
    ]


def shape(spec: MachineSpec, info: HypervisorInfo) -> str:
    """What of the command line a saved machine's state depends on."""
    taps = tuple(-1 for _ in spec.nics)
    origin = replace(spec, sandbox_id="", restore=None, memory_file=MemoryFile(-1, shared=True))
    return "\0".join(build(origin, info, Descriptors(-1, -1, -1, -1, taps, -1), ""))


def kernel_command_line(spec: MachineSpec, info: HypervisorInfo) -> str:
    """The machine's own options, then those of the kernel image (which may override them)."""
    # maxmem makes the kernel set 64 MiB aside for bounce buffers, which no device of ours needs: swiotlb=noforce.
    machine = "console=ttyS0 quiet reboot=t panic=-1 tsc=reliable no_timer_check swiotlb=noforce"
    rate = f" tsc_early_khz={info.tsc_khz}" if info.tsc_khz else ""
    return f"{machine}{rate} hyper.port={AGENT_PORT} {spec.image.command_line}".strip()


def _processor(spec: MachineSpec, info: HypervisorInfo) -> list[str]:
    if info.accelerator is Accelerator.KVM:
        model = ["-accel", "kvm", "-cpu", "host"]
    else:
        model = ["-accel", f"tcg,thread=multi,tb-size={_TCG_CACHE_MIB}", "-cpu", f"max,{_TCG_CPU_WITHOUT}"]
    return [*model, "-smp", f"cpus={spec.cpus},maxcpus={max(spec.cpus, spec.max_cpus)}"]


def _firmware(spec: MachineSpec, info: HypervisorInfo) -> list[str]:
    """A template boots once, so it can have what needs QEMU's own firmware: a generation id, by which the kernel of
    each clone learns that it is one (ACPI's VM Generation ID)."""
    if spec.clonable:
        return ["-device", "vmgenid,guid=auto"]
    return ["-bios", str(info.firmware)] if info.firmware else []


def _memory(spec: MachineSpec, fds: Descriptors) -> list[str]:
    size = -(-spec.memory_bytes // _MIB)
    growth = growth_mib(spec)
    # A device of memory begins at a gigabyte's border, for which room must be left.
    more = f",slots={_MEMORY_SLOTS},maxmem={size + growth + _ALIGNMENT_MIB}M" if growth else ""
    arguments = ["-m", f"size={size}M{more}"]
    if spec.memory_file is not None:
        share = "on" if spec.memory_file.shared else "off"
        path = f"/proc/self/fd/{fds.memory}"
        arguments += ["-object", f"memory-backend-file,id=ram0,size={size}M,mem-path={path},share={share}"]
    return arguments


def growth_mib(spec: MachineSpec) -> int:
    """How much memory the machine can get beyond what it starts with, in whole blocks of the guest's."""
    return max(0, spec.max_memory_bytes - spec.memory_bytes) // _MIB // GUEST_BLOCK_MIB * GUEST_BLOCK_MIB


def _growth(spec: MachineSpec) -> list[str]:
    """virtio-mem: an empty region that the guest is offered more and more of. Shared in a template and private in its
    clones, like all memory (a state without it can only be saved so); nothing of it is used in a template."""
    growth = growth_mib(spec)
    if not growth:
        return []
    share = "on" if spec.memory_file is not None and spec.memory_file.shared else "off"
    # Shared memory must be a file, which a server of shared directories can map as well.
    kind = "memory-backend-memfd" if share == "on" else "memory-backend-ram"
    return [
        *("-object", f"{kind},id=growth0,size={growth}M,reserve=off,share={share}"),
        *("-device", f"virtio-mem-pci,id={GROWTH},memdev=growth0,requested-size=0,unplugged-inaccessible=on"),
    ]


def _nics(spec: MachineSpec, fds: Descriptors) -> list[str]:
    arguments: list[str] = []
    for number, (nic, tap) in enumerate(zip(spec.nics, fds.taps, strict=True)):
        arguments += ["-netdev", f"tap,id=net{number},fd={tap},vhost=off"]
        arguments += ["-device", f"virtio-net-pci,id=nic{number},netdev=net{number},mac={nic.mac},romfile="]
    return arguments


def _spare_ports() -> list[str]:
    arguments: list[str] = []
    for number in range(1, SPARE_PORTS + 1):
        arguments += ["-device", f"pcie-root-port,id=spare{number},chassis={number},slot={number}"]
    return arguments
