"""Cuts into the library: an exception at any bytecode, as from a signal handler."""

from __future__ import annotations

import dis
import functools
import gc
import sys
import weakref
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import flask_eventcollector as package

FOLDER = str(Path(package.__file__).parent)
_FINALIZER = weakref.finalize.__call__.__code__


class Cut(BaseException):
    """What the handler raises: a worker is told to stop."""


class TimeLimit(Exception):
    """What the handler raises: a soft time limit, such as Celery's."""


class Knife:
    """Raises *kind* once, at the bytecode with the number *at*, counted from 1.

    Bytecodes count that the package runs in this thread, within the block. With
    *returns*, the ends of its calls into C count instead: there a handler's exception
    comes after the effect of the call, and belongs to the call.
    """

    def __init__(
        self,
        at: int = 0,
        kind: type[BaseException] = Cut,
        *,
        returns: bool = False,
    ) -> None:
        self._at = at
        self._kind = kind
        self._returns = returns
        #: How many bytecodes have run.
        self.count = 0
        #: Where it has cut; ``""``: the block ended before.
        self.place = ""

    def __enter__(self) -> Knife:
        # Coverage may be tracing, and goes on afterwards.
        self._before = (sys.gettrace(), sys.getprofile())
        # It could finalise an earlier test's app, in which an exception is lost.
        gc.disable()
        if self._returns:
            sys.setprofile(self._profile)
        else:
            sys.settrace(self._trace)
        return self

    def __exit__(self, *exc_info: object) -> None:
        gc.enable()
        trace, profile = self._before
        if self._returns:
            sys.setprofile(profile)
        else:
            sys.settrace(trace)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(FOLDER):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode" and frame.f_lasti not in shielded(frame.f_code):
            self._step(frame)
        return self._trace

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        if event == "c_return" and frame.f_code.co_filename.startswith(FOLDER):
            self._step(frame)

    def _step(self, frame: FrameType) -> None:
        self.count += 1
        if self.count == self._at and not is_finalizing(frame):
            code = frame.f_code
            name = getattr(code, "co_qualname", code.co_name)
            file = Path(code.co_filename).relative_to(FOLDER)
            self.place = f"{file}:{frame.f_lineno} {name} +{frame.f_lasti}"
            raise self._kind


def is_finalizing(frame: FrameType | None) -> bool:
    """Whether *frame* runs for a finalizer, such as that of an earlier test's app.

    Python reports an exception there and drops it, so it reaches nobody.
    """
    while frame is not None and frame.f_code is not _FINALIZER:
        frame = frame.f_back
    return frame is not None


#: At the edges of an `except` block, a cut would leave what it handles in
#: `sys.exc_info()` for as long as the thread lives, for all later tests to see.
_UNCUT = ("NOP", "PUSH_EXC_INFO", "POP_EXCEPT", "WITH_EXCEPT_START")


@functools.cache
def shielded(code: CodeType) -> frozenset[int]:
    """Where the interpreter itself runs no handler: from a ``with`` block to its exit.

    It looks for signals at a function's start, when it jumps back, and after calls.
    """
    found: set[int] = set()
    instructions = list(dis.get_instructions(code))
    for place, instruction in enumerate(instructions):
        if instruction.opname in _UNCUT:
            found.add(instruction.offset)
        if _is_exit_call(instructions, place):
            found.add(instruction.offset)
            before = place - 1
            while instructions[before].opname in _EXIT:
                found.add(instructions[before].offset)
                before -= 1
    return frozenset(found)


#: What stands between a ``with`` block and the call of its exit.
_EXIT = {
    "LOAD_CONST",
    "PRECALL",
    "DUP_TOP",
    "ROT_TWO",
    "POP_BLOCK",
    "SWAP",
    "NOP",
    "CACHE",
}


def _is_exit_call(instructions: list[dis.Instruction], place: int) -> bool:
    instruction = instructions[place]
    if instruction.opname not in ("CALL", "CALL_FUNCTION"):
        return False
    arguments = [
        i for i in instructions[max(0, place - 4) : place] if i.opname != "PRECALL"
    ][-3:]
    if [i.opname for i in arguments] == ["LOAD_CONST", "DUP_TOP", "DUP_TOP"]:
        return arguments[0].argval is None
    return len(arguments) == 3 and all(
        i.opname == "LOAD_CONST" and i.argval is None for i in arguments
    )
