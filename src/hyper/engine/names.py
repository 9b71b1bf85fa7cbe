"""Names for containers whose users gave none: two words, as Docker's users expect, from lists of our own."""

from __future__ import annotations

import secrets
from collections.abc import Callable

_ADJECTIVES = (
    "agile able ample brave bright brisk calm candid clever cosy crisp curious daring deft eager early fair fleet
    fond frank fresh "
    "gentle glad golden grand happy hardy honest humble jolly keen kind lively lucid lucky mellow merry mild modest
    neat nimble noble "
    "patient plucky polite proud quick quiet rapid ready sharp silent sleek smart snug sober solid spry steady sturdy
    sunny swift tidy "
    "trusty upbeat vivid warm wise witty zesty"
).split()
_NOUNS = (
    "alder aspen badger beaver bison brook canyon cedar comet coral crane delta dune eagle ember falcon fern finch
    fjord forest fox "
    "gannet garnet glacier grove harbor hare harrier hawk hazel heron ibis island jasper juniper kestrel lagoon lark
    lynx maple marten "
    "meadow merlin moor moss oak orca osprey otter owl pine plover prairie puffin quail quartz rapids raven reef
    ridge river robin "
    "rowan sable salmon sparrow spruce stoat summit swan thrush tundra valley walnut willow wren"
).split()


def generate(taken: Callable[[str], bool]) -> str:
    """A free name such as "swift_otter"; a number is added when luck runs out."""
    for attempt in range(20):
        name = f"{secrets.choice(_ADJECTIVES)}_{secrets.choice(_NOUNS)}"
        if attempt > 5:
            name += str(secrets.randbelow(10**attempt))
        if not taken(name):
            return name
    return secrets.token_hex(8)
