"""Where a broker's exchanges and queues differ from the settings, and the cure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from .declarations import Phase, Step
from .reasons import broker_text


class Difference(NamedTuple):
    """Where the broker and the settings differ. Values are as the broker shows them."""

    argument: str
    #: What the settings say; ``None``: nothing.
    given: str | None
    #: What the broker has; ``None``: nothing.
    present: str | None
    #: RabbitMQ's name for the type of the broker's value; ``""``: unknown.
    kind: str = ""

    def __str__(self) -> str:
        present = "not set" if self.present is None else self.present
        given = "do not set it" if self.given is None else f"say {self.given}"
        return f"{self.argument!r} is {present}, but the settings {given}"


#: The end is missing if the text would take more than AMQP's 255 bytes.
_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']*)' for .*"
    r" received (?P<given>.*) but current is (?P<present>.*)",
    re.DOTALL,
)
#: In each text about a difference, even if its end is missing.
_DIFFERS = "inequivalent arg"
_TYPED = re.compile(r"the value '(?P<value>.*)' of type '(?P<type>\w+)'", re.DOTALL)


def difference(error: BaseException) -> Difference | None:
    """What *error* (code 406) says about a difference; ``None``: nothing."""
    found = _INEQUIVALENT.search(broker_text(error))
    if found is None:
        return None
    given, _ = _value(found["given"])
    present, kind = _value(found["present"])
    return Difference(found["argument"], given, present, kind)


#: Instead of a type, of a value whose end is missing.
_CUT_OFF = "cut off"


def _value(text: str) -> tuple[str | None, str]:
    """A value in RabbitMQ's words, and its type."""
    if text == "none":
        return None, ""
    found = _TYPED.fullmatch(text)
    if found is not None:
        return found["value"], found["type"]
    if text.endswith("..."):
        return text.removeprefix("the value ").removeprefix("'"), _CUT_OFF
    return text.strip("'"), ""


def adapted(step: Step, found: Difference) -> Step | None:
    """*step* with the broker's value in place of the settings'; ``None``: unknown."""
    name = "exchange_type" if found.argument == "type" else found.argument
    if name in step.values:
        value = found.present if name == "exchange_type" else found.present == "true"
        return replace(step, values={**step.values, name: value})
    arguments = dict(step.values["arguments"])
    if found.present is None:
        arguments.pop(found.argument, None)
        return replace(step, values={**step.values, "arguments": arguments})
    read = _READ.get(found.kind)
    if read is None:
        return None
    arguments[found.argument] = read(found.present)
    return replace(step, values={**step.values, "arguments": arguments})


def _guessed(text: str) -> str | int | bool:
    """A value whose type RabbitMQ does not tell, since the settings' has the same."""
    if text in ("true", "false"):
        return text == "true"
    return int(text) if re.fullmatch(r"-?\d+", text) else text


#: By RabbitMQ's names of AMQP's types.
_READ: Mapping[str, Callable[[str], str | int | bool]] = {
    "": _guessed,
    "bool": lambda text: text == "true",
    "longstr": str,
    **dict.fromkeys(
        ("byte", "long", "short", "signedint", "unsignedbyte", "unsignedshort"), int
    ),
}


def differs(error: BaseException) -> bool:
    """Whether the broker says that something exists, with other arguments."""
    return _DIFFERS in broker_text(error)


def refusal(step: Step, error: BaseException) -> str:
    """Why the broker has refused *step*, with the cure."""
    found = difference(error)
    if found is not None:
        return f"{step} exists, and differs: {found}: {how_to_align(step)}"
    return f"{step} was refused: {broker_text(error)}: {cure(step, error)}"


def how_to_align(step: Step) -> str:
    """What to do about *step*, which exists with other arguments."""
    emptied = "" if step.phase is Phase.EXCHANGES else " once it is empty"
    return (
        f"correct {step.setting}, or delete the {step.kind}{emptied}, so that it is"
        " declared anew. Until then, it is used as it is"
    )


def cure(step: Step, error: BaseException) -> str:
    """What to do about *step*, which the broker has refused with *error*."""
    if differs(error):
        return how_to_align(step)
    code = getattr(error, "reply_code", None)
    if code == 404:
        return (
            "it must be declared first; an exchange is, once it has a 'type' in"
            " EVENTCOLLECTOR_EXCHANGES"
        )
    if code != 403:
        return f"correct {step.setting}"
    is_exchange = step.phase is Phase.EXCHANGES
    others_do = "declare it" if is_exchange else "declare and bind the queue"
    return (
        "grant the broker's user the permission, or set 'declare' to False in"
        f" {step.setting} if others {others_do}"
    )
