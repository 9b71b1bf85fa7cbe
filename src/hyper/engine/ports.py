"""Which ports a container asks to have published."""

from __future__ import annotations

from hyper.engine.model import ContainerConfig, PortRequest


def requested_ports(config: ContainerConfig) -> tuple[PortRequest, ...]:
    """Every ``-p``, and with ``-P`` each exposed port that has none, on any free host port."""
    requests = list(config.ports)
    if config.publish_all_ports:
        taken = {(request.container_port, request.protocol) for request in requests}
        for text in config.exposed_ports:
            number, _, protocol = text.partition("/")
            key = (int(number), protocol or "tcp")
            if key not in taken:
                requests.append(PortRequest(container_port=key[0], protocol="udp" if key[1] == "udp" else "tcp"))
    return tuple(requests)
