"""``/containers/{id}/exec`` and ``/exec/{id}/…``."""

from __future__ import annotations

from typing import Annotated

import msgspec

from hyper.api.docker import detach_keys, framing, streams
from hyper.api.docker.call import Call, json_response
from hyper.api.docker.create_body import Int64, Words
from hyper.api.docker.launch_errors import exec_failure_text, launch_error
from hyper.api.docker.router import Route
from hyper.api.docker.routes.containers import window_size
from hyper.api.http.messages import HijackResponse, RawConnection, Response
from hyper.engine.model import Exec, ExecConfig, Status
from hyper.errors import Conflict, HyperError, InvalidArgument

Cells = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class ExecBody(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    console_size: tuple[Cells, Cells] = (0, 0)
    detach_keys: str = ""
    tty: bool = False
    env: list[str] = []
    cmd: Words = []
    privileged: bool = False
    user: str = ""
    working_dir: str = ""
    detach: bool = False


class StartBody(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    detach: bool = False
    tty: bool = False
    console_size: tuple[Int64, Int64] = (0, 0)


def routes() -> tuple[Route, ...]:
    return (
        Route("POST", "/containers/{id}/exec", create),
        Route("POST", "/exec/{id}/start", start),
        Route("POST", "/exec/{id}/resize", resize),
        Route("GET", "/exec/{id}/json", inspect),
    )


async def create(call: Call) -> Response:
    body = await call.json(ExecBody)
    command = (body.cmd,) if isinstance(body.cmd, str) else tuple(body.cmd)
    if not command:
        raise InvalidArgument("No exec command specified")
    if any("\0" in word for word in (*command, *body.env, body.user, body.working_dir)):
        raise InvalidArgument("a command, variable, user or directory cannot contain a zero byte")
    if body.working_dir and not body.working_dir.startswith("/"):
        raise InvalidArgument(f"the working directory '{body.working_dir}' is invalid, it needs to be an absolute path")
    detach_keys.parse(body.detach_keys)
    config = ExecConfig(
        command=command,
        env=tuple(body.env),
        working_dir=body.working_dir,
        user=body.user,
        tty=body.tty,
        privileged=body.privileged,
        attach_stdin=body.attach_stdin,
        attach_stdout=body.attach_stdout,
        attach_stderr=body.attach_stderr,
        detach_keys=body.detach_keys,
    )
    exec_id = await call.engine.execs.create(call.params["id"], config)
    return json_response({"Id": exec_id}, 201)


async def start(call: Call) -> Response | HijackResponse:
    body = await call.json(StartBody, required=False)
    exec_ = call.engine.execs.get(call.params["id"])
    _check_startable(call, exec_)
    size = (0, 0)
    if body.tty and call.at_least(1, 42):
        size = (int(body.console_size[0]), int(body.console_size[1]))
    if not body.detach:
        return _attached(call, exec_, multiplexed=not body.tty, size=size)
    try:
        await call.engine.execs.start(exec_.id, detach=True, console_size=size)
    except HyperError as error:
        raise (launch_error(error, exec_.config.command[0]) or error) from error
    return Response(200)


def _check_startable(call: Call, exec_: Exec) -> None:
    """What can be told with a status of its own: later the connection is no longer HTTP."""
    if exec_.running or exec_.exit_code is not None:
        raise Conflict(f"exec {exec_.id} has been started before: create a new one")
    status = call.engine.containers.get(exec_.container_id).state.status
    if status is Status.PAUSED:
        raise Conflict(f"container {exec_.container_id} is paused, unpause the container before exec")
    if status is not Status.RUNNING:
        raise Conflict(f"container {exec_.container_id} is not running")


def _attached(call: Call, exec_: Exec, *, multiplexed: bool, size: tuple[int, int]) -> HijackResponse:
    """The process starts only after the head has gone out, as with Docker's own engine: some clients (docker-py) lose
    output that
    arrives together with the head. What goes wrong from there on is told in the output."""
    config = exec_.config

    async def run(raw: RawConnection) -> None:
        try:
            attachment = await call.engine.execs.start(exec_.id, detach=False, console_size=size)
        except HyperError as error:
            data = f"{exec_failure_text(error, config.command[0]) or error.message}\r\n".encode()
            await raw.write(framing.header("stdout", len(data)) + data if multiplexed else data)
            return
        if attachment is None:
            return
        keys = detach_keys.parse(config.detach_keys) if config.tty else None
        await streams.join(raw, attachment, multiplexed=multiplexed, stdin=config.attach_stdin, detach_keys=keys)

    async def nothing() -> None:
        return None

    return HijackResponse(run, nothing, framing.media_type(multiplexed=multiplexed, version=call.version))


async def resize(call: Call) -> Response:
    rows, columns = window_size(call)
    await call.engine.execs.resize(call.params["id"], rows=rows, columns=columns)
    return Response(200)


async def inspect(call: Call) -> Response:
    exec_ = call.engine.execs.get(call.params["id"])
    config = exec_.config
    return json_response(
        {
            "ID": exec_.id,
            "Running": exec_.running,
            "ExitCode": exec_.exit_code,
            "ProcessConfig": {
                "tty": config.tty,
                "entrypoint": config.command[0],
                "arguments": list(config.command[1:]),
                "privileged": config.privileged,
                **({"user": config.user} if config.user else {}),
            },
            "OpenStdin": config.attach_stdin,
            "OpenStderr": config.attach_stderr,
            "OpenStdout": config.attach_stdout,
            "CanRemove": False,
            "ContainerID": exec_.container_id,
            "DetachKeys": config.detach_keys,
            "Pid": exec_.pid,
        }
    )
