"""``info``: the machine below: hypervisor, accelerator and why, kernel, template and pool, storage, counts."""

from __future__ import annotations

from collections.abc import Sequence

from hyper.cli import human, output
from hyper.cli.flags import parse, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hyper.cli.main import Session


STILL_TRYING = "being tried with a guest at the moment; ask again in some seconds"


def info(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "info",
        arguments,
        (value("-f --format", "Show it by a template, or json"),),
        usage="[FLAGS]",
        summary="Show hypervisor, kernel, storage and counts. Templates see the engine's /hyper/info.",
        at_most=0,
    )
    found = session.engine.object("GET", "/hyper/info")
    template = parsed.value("format")
    if template:
        from hyper.cli.template import Template

        source = "{{json .}}" if template == "json" else template.replace("\\t", "\t").replace("\\n", "\n")
        output.write(Template(source).render(found) + "\n")
        return 0
    version = session.engine.object("GET", "/version")
    output.write(describe(found, version))
    return 0


def accelerator(found: dict[str, Any]) -> str:
    """Which one, and why; the engine needs seconds to find out the first time, by booting a guest."""
    return f"{found['accelerator']}: {found['accelerator_reason']}" if found["accelerator"] else STILL_TRYING


def describe(found: dict[str, Any], version: dict[str, Any]) -> str:
    default_cpus = found["default_cpus"]
    rows = [
        ("Engine", f"Hyper {version.get('Version', '')}, API {version.get('ApiVersion', '')}"),
        ("Host kernel", str(version.get("KernelVersion", ""))),
        ("Hypervisor", f"{found['hypervisor']} {found['hypervisor_version']}".strip() or STILL_TRYING),
        ("Accelerator", accelerator(found)),
        ("Guest kernel", f"{found['kernel_release']} ({found['kernel_kind']}, {found['kernel_path']})"),
        ("Agent", str(found["agent_version"])),
        ("Template", str(found["template"])),
        ("Pool", str(found["pool"])),
        ("Default size", f"{human.binary_size(found['default_memory_bytes'])} memory, {default_cpus} CPUs"),
        ("Storage", str(found["storage"])),
        ("Data root", str(found["data_root"])),
        ("Run folder", str(found["exec_root"])),
        (
            "Containers",
            f"{found['containers_running']} running, {found['containers_paused']} paused, "
            f"{found['containers_stopped']} stopped",
        ),
        ("Images", str(found["images"])),
        ("ID", str(found["id"])),
    ]
    width = max(len(name) for name, _ in rows) + 2
    text = "".join(f"{name + ':':<{width}}{setting}\n" for name, setting in rows)
    return text + "".join(f"Warning: {warning}\n" for warning in found.get("warnings") or ())
