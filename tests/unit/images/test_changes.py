import pytest

from hyper.errors import InvalidArgument
from hyper.images.changes import apply
from hyper.oci.image_config import ContainerConfig, Healthcheck


@pytest.mark.parametrize(
    ("change", "member", "value"),
    [
        ('CMD ["a", "b c"]', "cmd", ["a", "b c"]),
        ("cmd echo hi", "cmd", ["/bin/sh", "-c", "echo hi"]),
        ("CMD [not json]", "cmd", ["/bin/sh", "-c", "[not json]"]),
        ('ENTRYPOINT ["/x"]', "entrypoint", ["/x"]),
        ('ENV A=1 B=\'two words\' C="q\\"q" D=a\\ b', "env", ["A=1", "B=two words", 'C=q"q', "D=a b"]),
        ("ENV A the rest of it", "env", ["A=the rest of it"]),
        ("LABEL a=1 b=2", "labels", {"a": "1", "b": "2"}),
        (
            "EXPOSE 80 53/udp 8000-8002",
            "exposed_ports",
            {f"{p}": {} for p in ["80/tcp", "53/udp", "8000/tcp", "8001/tcp", "8002/tcp"]},
        ),
        ('VOLUME ["/a", "/b"]', "volumes", {"/a": {}, "/b": {}}),
        ("VOLUME /a /b", "volumes", {"/a": {}, "/b": {}}),
        ("WORKDIR /srv/../app", "working_dir", "/app"),
        ("USER 1000:1000", "user", "1000:1000"),
        ("STOPSIGNAL SIGQUIT", "stop_signal", "SIGQUIT"),
        ("ONBUILD RUN make", "on_build", ["RUN make"]),
        (
            "HEALTHCHECK --interval=1m30s --retries=2 CMD true",
            "healthcheck",
            Healthcheck(["CMD-SHELL", "true"], 90 * 10**9, retries=2),
        ),
        ("HEALTHCHECK NONE", "healthcheck", Healthcheck(["NONE"])),
    ],
)
def test_each_instruction_changes_its_member(change: str, member: str, value: object) -> None:
    assert getattr(apply(ContainerConfig(), [change]), member) == value


def test_relative_workdir_goes_on_from_the_last() -> None:
    assert apply(ContainerConfig(), ["WORKDIR /a", "WORKDIR b"]).working_dir == "/a/b"


def test_env_replaces_its_own_name_only() -> None:
    assert apply(ContainerConfig(env=["A=1", "B=2"]), ["ENV A=3"]).env == ["A=3", "B=2"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("RUN make", "run is not a valid change command"),
        ("FROM x", "from is not a valid change command"),
        ("CMD", "requires at least one argument"),
        ("EXPOSE 70000", "invalid containerPort"),
        ("EXPOSE 90-80", "invalid containerPort"),
        ("ENV A", "must have two arguments"),
        ("ENV A=1 B", "can't find ="),
        ("ENV A='open", "quote is not closed"),
        ("USER a b", "exactly one"),
        ("STOPSIGNAL now!", "Invalid signal"),
        ("ONBUILD ONBUILD RUN x", "Chaining"),
        ("ONBUILD FROM x", "isn't allowed"),
        ("HEALTHCHECK --every=1s CMD x", "Unknown flag"),
        ("HEALTHCHECK --interval=soon CMD x", "invalid duration"),
    ],
)
def test_what_docker_refuses_is_refused(change: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words.replace("(", r"\(")):
        apply(ContainerConfig(), [change])
