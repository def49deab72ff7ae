"""Answers a form, as JSON for scripts or as a page for browsers."""

from __future__ import annotations

from flask import Flask, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException, InternalServerError


def init_app(app: Flask) -> None:
    """Answer errors in the same two formats."""
    app.register_error_handler(HTTPException, show_error)


def answer(message: str, status: int = 200) -> ResponseReturnValue:
    """Return the message as JSON, or redirect to the page that shows it."""
    if _wants_json():
        return {"message": message}, status
    flash(message)
    return redirect(url_for("page.index"), 303)


def show_error(error: HTTPException) -> ResponseReturnValue:
    """Return the error as JSON, or as a page with a link back."""
    status, message = error.code or 500, _message(error)
    if error.response is not None:
        return error.response
    if _wants_json():
        return {"message": message}, status
    return render_template("error.html", error=error, message=message), status


def _wants_json() -> bool:
    return request.accept_mimetypes.best == "application/json"


def _message(error: HTTPException) -> str:
    if isinstance(error, InternalServerError) and error.original_exception:
        return f"The view raised {type(error.original_exception).__name__}."
    return error.description or error.name
