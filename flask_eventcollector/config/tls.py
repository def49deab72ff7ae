"""Makes the TLS context for a broker's URL."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress

from ..errors import ConfigurationError
from ..messages.wording import type_name
from .broker_url import BrokerURL

#: A passphrase, or what returns it.
Passphrase = str | Callable[[], str]


class _NotAsked(Exception):
    """A key is encrypted, and its passphrase is not requested yet."""


def check_tls_files(url: BrokerURL, keyfile_password: Passphrase | None) -> None:
    """Check the URL's TLS files without calling *keyfile_password*.

    :raises ConfigurationError: a file can't be read or used.
    """

    def passphrase() -> str:
        raise _NotAsked

    with suppress(_NotAsked):
        is_asked_later = callable(keyfile_password)
        tls_context(url, passphrase if is_asked_later else keyfile_password)


def tls_context(
    url: BrokerURL, keyfile_password: Passphrase | None = None
) -> ssl.SSLContext:
    """Read the URL's TLS files. Never asks for a passphrase at the terminal.

    :param keyfile_password: the passphrase of the URL's ``keyfile``, or of the key in
        its ``certfile``; only used if the key is encrypted.
    :raises ConfigurationError: a file can't be read or used.
    """
    context = _trusting(url)
    if url.options.get("verify") == "verify_none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if "certfile" in url.options:
        _load_certificate(context, url, keyfile_password)
    return context


def _trusting(url: BrokerURL) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=url.options.get("cacertfile"))
    except ssl.SSLError:
        raise _error(url, "has a cacertfile without a certificate in PEM") from None
    except OSError as error:
        raise _error(
            url, f"has a cacertfile that can't be read: {error.strerror}"
        ) from None


def _load_certificate(
    context: ssl.SSLContext, url: BrokerURL, password: Passphrase | None
) -> None:
    is_encrypted = False

    def passphrase() -> str:
        nonlocal is_encrypted
        is_encrypted = True
        if password is None:
            # Without a passphrase, OpenSSL would ask at the terminal, and wait.
            raise _error(
                url,
                "has an encrypted keyfile: set EVENTCOLLECTOR_KEYFILE_PASSWORD to its"
                " passphrase, or decrypt it with openssl pkey",
            )
        return password() if callable(password) else password

    files = url.options["certfile"], url.options.get("keyfile")
    try:
        context.load_cert_chain(*files, passphrase)
    except ssl.SSLError as error:
        problem = (
            "has a keyfile that EVENTCOLLECTOR_KEYFILE_PASSWORD does not decrypt"
            if is_encrypted
            else f"has a certfile and a keyfile ({error.reason}) that can't be used:"
            " write PEM files that belong together"
        )
        raise _error(url, problem) from None
    except OSError as error:
        raise _error(
            url, f"has a certfile or keyfile that can't be read: {error.strerror}"
        ) from None


def _error(url: BrokerURL, problem: str) -> ConfigurationError:
    return ConfigurationError(f"EVENTCOLLECTOR_BROKER_URL ({url}) {problem}")


def checked_passphrase(origin: str, value: object) -> str:
    """*value*, if it can be a passphrase.

    :param origin: what it comes from, at the beginning of a message about it.
    :raises ConfigurationError: it can't. The message does not show it.
    """
    if not isinstance(value, str):
        raise ConfigurationError(
            f"{origin} is of type {type_name(value)}: it must be a str (in an"
            " environment variable, digits alone need quotes), or a callable"
        )
    # 1024 is OpenSSL's limit. A line break comes from a file that was read whole.
    if not value.isprintable() or not 0 < len(value.encode()) <= 1024:
        raise ConfigurationError(
            f"{origin} is empty, longer than 1024 bytes, or has a line break or another"
            " character that is not printable: set the passphrase alone, or no setting"
        )
    return value
