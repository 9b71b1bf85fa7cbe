"""``/_ping``, ``/version``, ``/info``, and ``/hyper/info`` for what Docker's schema has no place for."""

from __future__ import annotations

import os
import platform
import time
from typing import Any

import msgspec

from hyper import __version__
from hyper.api.docker import versions
from hyper.api.docker.call import Call, json_response
from hyper.api.docker.inspect import RUNTIME, STORAGE_DRIVER
from hyper.api.docker.router import Route
from hyper.api.docker.times import rfc3339_nano
from hyper.api.http.messages import Response
from hyper.engine.model import RegistryInfo

_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

_PING_HEADERS = {
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    # "1": clients should use the classic builder's endpoint, not BuildKit's.
    "Builder-Version": "1",
    "Swarm": "inactive",
}


def routes() -> tuple[Route, ...]:
    return (
        Route("GET", "/_ping", ping),
        Route("HEAD", "/_ping", ping),
        Route("GET", "/version", version),
        Route("GET", "/info", info),
        Route("GET", "/hyper/info", hyper_info),
    )


def go_architecture() -> str:
    """As Go and image indexes name it."""
    machine = os.uname().machine
    return _GO_ARCHITECTURES.get(machine, machine)


async def ping(call: Call) -> Response:
    body = b"" if call.request.method == "HEAD" else b"OK"
    return Response(200, body, "text/plain; charset=utf-8", _PING_HEADERS)


async def version(call: Call) -> Response:
    kernel = os.uname().release
    newest, oldest = versions.text(versions.NEWEST), versions.text(versions.OLDEST)
    return json_response(
        {
            "Platform": {"Name": "Hyper"},
            "Components": [
                {
                    "Name": "Engine",
                    "Version": __version__,
                    "Details": {
                        "ApiVersion": newest,
                        "Arch": go_architecture(),
                        "Experimental": "false",
                        "KernelVersion": kernel,
                        "MinAPIVersion": oldest,
                        "Os": "linux",
                    },
                }
            ],
            "Version": __version__,
            "ApiVersion": newest,
            "MinAPIVersion": oldest,
            "GitCommit": "",
            "GoVersion": "",
            "Os": "linux",
            "Arch": go_architecture(),
            "KernelVersion": kernel,
            "BuildTime": "",
        }
    )


async def hyper_info(call: Call) -> Response:
    return json_response(msgspec.to_builtins(await call.engine.info()))


async def info(call: Call) -> Response:
    engine = await call.engine.info()
    registries = call.engine.registries.describe()
    host = os.uname()
    networks = sorted({network.driver for network in call.engine.networks()})
    return json_response(
        {
            "ID": engine.id,
            "Containers": engine.containers_running + engine.containers_paused + engine.containers_stopped,
            "ContainersRunning": engine.containers_running,
            "ContainersPaused": engine.containers_paused,
            "ContainersStopped": engine.containers_stopped,
            "Images": engine.images,
            "Driver": STORAGE_DRIVER,
            "DriverStatus": [
                ["Storage", engine.storage],
                ["Hypervisor", f"{engine.hypervisor} {engine.hypervisor_version}"],
                ["Accelerator", f"{engine.accelerator} ({engine.accelerator_reason})"],
                ["Guest kernel", f"{engine.kernel_kind}, {engine.kernel_release}, {engine.kernel_path}"],
                ["Agent", engine.agent_version],
                ["Template", engine.template],
                ["Pool", engine.pool],
            ],
            "DockerRootDir": engine.data_root,
            "Plugins": {"Volume": ["local"], "Network": networks, "Authorization": [], "Log": ["json-file"]},
            "MemoryLimit": True,
            "SwapLimit": False,
            "KernelMemoryTCP": False,
            "CpuCfsPeriod": True,
            "CpuCfsQuota": True,
            "CPUShares": True,
            "CPUSet": True,
            "PidsLimit": True,
            "OomKillDisable": False,
            "IPv4Forwarding": True,
            "Debug": False,
            "NFd": _open_descriptors(),
            "NGoroutines": 0,
            "SystemTime": rfc3339_nano(time.time_ns()),
            "LoggingDriver": "json-file",
            # Of the containers: inside each VM.
            "CgroupDriver": "cgroupfs",
            "CgroupVersion": "2",
            "NEventsListener": 0,
            "KernelVersion": host.release,
            "OperatingSystem": _operating_system(),
            "OSVersion": "",
            "OSType": "linux",
            "Architecture": host.machine,
            "NCPU": os.cpu_count() or 1,
            "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": _registries(registries),
            "GenericResources": [],
            "HttpProxy": registries.http_proxy,
            "HttpsProxy": registries.https_proxy,
            "NoProxy": registries.no_proxy,
            "Name": host.nodename,
            "Labels": [],
            "ExperimentalBuild": False,
            "ServerVersion": __version__,
            "Runtimes": {RUNTIME: {"path": engine.hypervisor}},
            "DefaultRuntime": RUNTIME,
            "Swarm": {
                "NodeID": "",
                "NodeAddr": "",
                "LocalNodeState": "inactive",
                "ControlAvailable": False,
                "Error": "",
                "RemoteManagers": None,
            },
            "LiveRestoreEnabled": engine.live_restore,
            "Isolation": "",
            "InitBinary": "",
            "ContainerdCommit": {"ID": ""},
            "RuncCommit": {"ID": ""},
            "InitCommit": {"ID": ""},
            "SecurityOptions": ["name=hypervisor"],
            "ProductLicense": "",
            "DefaultAddressPools": [],
            "CDISpecDirs": [],
            "Warnings": list(engine.warnings),
        }
    )


def _registries(known: RegistryInfo) -> dict[str, Any]:
    indexes = {
        name: {"Name": name, "Mirrors": mirrors, "Secure": secure, "Official": official}
        for name, mirrors, secure, official in (
            ("docker.io", list(known.mirrors), True, True),
            *((host, [], False, False) for host in known.insecure_hosts),
        )
    }
    return {
        "InsecureRegistryCIDRs": list(known.insecure_networks),
        "IndexConfigs": indexes,
        "Mirrors": list(known.mirrors),
    }


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _operating_system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"
