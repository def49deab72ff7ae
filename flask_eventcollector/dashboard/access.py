"""Who may see the dashboard, and who may change something."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn, TypeAlias
from urllib.parse import urlsplit

from flask import Response, abort, current_app, request
from werkzeug.exceptions import HTTPException

from ..delivery.records import Kind, log_failure

#: What ``authorize`` may return instead of ``Viewer(read_only=True)``.
READ_ONLY = "read-only"


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks at the dashboard, as ``authorize`` says."""

    #: For the log; ``""``: not known, so the log has the address.
    name: str = ""
    #: Whether they may look only, although the dashboard allows actions.
    read_only: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(
                "a Viewer's name must be a str, for example str(user.id), not"
                f" {type(self.name).__name__}"
            )


#: ``True`` or a user's name: all that the dashboard allows. ``"read-only"``: only to
#: look. ``False``, ``None`` or ``""``: nothing. A response: is sent instead of the
#: page, for example a redirect to the login.
Answer: TypeAlias = "Viewer | Response | str | bool | None"
Authorize: TypeAlias = "Callable[[], Answer | Awaitable[Answer]]"

_NOT_ALLOWED = "You may not see this page."
_NOT_HERE = (
    "Without authorize=, the dashboard is shown in debug mode only, and only to a"
    " browser on the same machine that asks for it by a local name such as localhost."
)
#: Headers of proxies, behind which each request seems to come from this machine.
_BY_PROXY = re.compile(
    "Forwarded|Via|X-Forwarded-.*|X-Original-.*|X-Real-IP|.*-(Client|Connecting)-IP",
    re.IGNORECASE,
)


def admit(authorize: Authorize | None) -> Viewer | Response:
    """Who sends the current request; a response of ``authorize`` itself.

    :raises werkzeug.exceptions.HTTPException: they may not see the page.
    """
    if authorize is None:
        return _admit_from_this_machine()
    try:
        answer = current_app.ensure_sync(authorize)()
        return answer if isinstance(answer, Response) else _viewer(answer)
    except HTTPException:
        raise
    except Exception as error:
        log_failure(Kind.DASHBOARD_CLOSED, error)
        abort(403, _NOT_ALLOWED)


def _viewer(answer: object) -> Viewer:
    """Who has been authorized by this *answer*.

    :raises TypeError: it is no answer. An object may be true whatever it stands for, as
        Flask-Login's anonymous user is.
    """
    if not answer:
        _refuse(_NOT_ALLOWED)
    if isinstance(answer, Viewer):
        return answer
    if answer is True:
        return Viewer()
    if not isinstance(answer, str):
        raise TypeError(
            "authorize() must return a Viewer, a user's name, True, 'read-only', False,"
            f" None or a response, not {type(answer).__name__}"
        )
    is_read_only = answer == READ_ONLY
    return Viewer("" if is_read_only else answer, read_only=is_read_only)


def _admit_from_this_machine() -> Viewer:
    """Anybody on this machine, in debug mode.

    No header is believed that says so. One that says otherwise is, and so is the name
    by which the browser has found us: another site's name may lead here, too.
    """
    is_forwarded = any(map(_BY_PROXY.fullmatch, request.headers.keys()))
    is_local = _is_loopback(request.remote_addr) and _is_local_name(request.host)
    if is_forwarded or not (is_local and current_app.debug):
        _refuse(_NOT_HERE)
    return Viewer()


def _is_local_name(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    return name == "localhost" or name.endswith(".localhost") or _is_loopback(name)


def _is_loopback(address: str | None) -> bool:
    try:
        ip = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return bool((mapped or ip).is_loopback)


def _refuse(why: str) -> NoReturn:
    abort(403, why)
