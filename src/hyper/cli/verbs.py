"""Every verb: which module has it, and its line in the help. Nothing is imported until a verb is used."""

from __future__ import annotations

# verb: (module below hyper.cli, function, one line). The function takes (Session, arguments) and returns the exit code.
VERBS: dict[str, tuple[str, str, str]] = {
    "run": ("run", "run", "Create and run a new container from an image"),
    "create": ("run", "create", "Create a new container"),
    "start": ("run", "start", "Start one or more stopped containers"),
    "attach": ("run", "attach", "Attach to a running container"),
    "exec": ("execute", "execute", "Run a command in a running container"),
    "ps": ("containers", "ps", "List containers"),
    "logs": ("logs", "logs", "Show the output of a container"),
    "inspect": ("inspect", "inspect", "Show everything that is known of containers and images"),
    "port": ("containers", "port", "List a container's published ports"),
    "wait": ("lifecycle", "wait", "Wait until containers stop, then print their exit codes"),
    "stop": ("lifecycle", "stop", "Stop one or more running containers"),
    "restart": ("lifecycle", "restart", "Restart one or more containers"),
    "kill": ("lifecycle", "kill", "Send a signal to one or more running containers"),
    "pause": ("lifecycle", "pause", "Freeze all processes of one or more containers"),
    "unpause": ("lifecycle", "unpause", "Let the processes of frozen containers go on"),
    "rename": ("lifecycle", "rename", "Rename a container"),
    "update": ("update", "update", "Change limits of one or more containers"),
    "rm": ("lifecycle", "remove", "Remove one or more containers"),
    "images": ("images", "images", "List images"),
    "pull": ("registry", "pull", "Download an image from a registry"),
    "push": ("registry", "push", "Upload an image to a registry"),
    "diff": ("archives_out", "diff", "Show what a container has changed in its file system"),
    "export": ("archives_out", "export", "Write a container's file system as a tar archive"),
    "commit": ("archives_out", "commit", "Make an image of what a container has become"),
    "save": ("archives_out", "save", "Write images as an archive"),
    "load": ("images_in", "load", "Load images from an archive made by docker save"),
    "import": ("images_in", "import_root", "Make an image from a tar of a root filesystem"),
    "tag": ("images", "tag", "Give an image another name"),
    "rmi": ("images", "remove", "Remove one or more images"),
    "history": ("images", "history", "Show the layers of an image"),
    "search": ("registry", "search", "Search a registry for images"),
    "login": ("registry", "login", "Log in to a registry"),
    "logout": ("registry", "logout", "Log out from a registry"),
    "events": ("events", "events", "Show what happens, as it happens"),
    "info": ("info", "info", "Show hypervisor, kernel, storage and counts"),
    "version": ("version", "version", "Show the versions of client and engine"),
    "doctor": ("doctor", "doctor", "Check whether this machine can run VMs well"),
}

# Groups as docker has them: `hyper container ls` is `hyper ps`.
GROUPS: dict[str, dict[str, str]] = {
    "container": {
        **{
            verb: verb
            for verb in (
                [
                    "run",
                    "create",
                    "start",
                    "attach",
                    "exec",
                    "logs",
                    "port",
                    "wait",
                    "stop",
                    "restart",
                    "kill",
                    "pause",
                    "unpause",
                    "rename",
                    "update",
                    "rm",
                    "diff",
                    "export",
                    "commit",
                ]
            )
        },
        "ls": "ps",
        "list": "ps",
        "ps": "ps",
        "inspect": "container inspect",
    },
    "image": {
        **{verb: verb for verb in ["load", "import", "tag", "history", "pull", "push", "save"]},
        "ls": "images",
        "list": "images",
        "rm": "rmi",
        "remove": "rmi",
        "inspect": "image inspect",
        "prune": "image prune",
    },
    "system": {"info": "info", "events": "events"},
    "volume": {
        "create": "volume create",
        "ls": "volume ls",
        "list": "volume ls",
        "inspect": "volume inspect",
        "rm": "volume rm",
        "remove": "volume rm",
        "prune": "volume prune",
    },
}

# Verbs that a group's name is part of.
GROUP_VERBS: dict[str, tuple[str, str, str]] = {
    "container inspect": ("inspect", "inspect_container", "Show everything that is known of containers"),
    "image inspect": ("inspect", "inspect_image", "Show everything that is known of images"),
    "image prune": ("archives_out", "prune", "Remove images that are not used"),
    "volume create": ("volumes", "create", "Create a volume"),
    "volume ls": ("volumes", "list_", "List volumes"),
    "volume inspect": ("volumes", "inspect", "Show everything that is known of volumes"),
    "volume rm": ("volumes", "remove", "Remove one or more volumes"),
    "volume prune": ("volumes", "prune", "Remove the volumes that no container has"),
}

# Verbs of docker's that are known to be missing: said as such, so that nobody looks for a typing mistake.
NOT_YET = frozenset(
    [
        "build",
        "cp",
        "top",
        "stats",
        "network",
        "swarm",
        "compose",
    ]
)
