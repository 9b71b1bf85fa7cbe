"""The only place for processes, netlink, mounts, sockets and files made durable. Knows nothing of containers."""
