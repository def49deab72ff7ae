"""Makes the TLS context for a broker's URL."""

from __future__ import annotations

import ssl

from ..errors import ConfigurationError
from .broker_url import BrokerURL


def tls_context(url: BrokerURL, keyfile_password: str | None = None) -> ssl.SSLContext:
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
    context: ssl.SSLContext, url: BrokerURL, password: str | None
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
        return password

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
