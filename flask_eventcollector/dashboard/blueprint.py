"""The dashboard as a blueprint: its routes, and who may use them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from flask import Blueprint, Flask, Response, abort, current_app, g, request
from flask import url_for as url
from flask.sansio.blueprints import BlueprintSetupState
from werkzeug.exceptions import HTTPException

from ..app_state import AppState, state_of
from ..config.settings import choose_spool_name
from ..errors import ConfigurationError
from ..monitoring.history.reader import History
from ..monitoring.samples import Samples
from ..stores.spool.admin.reading import Unreadable
from ..stores.spool.control import ControlRequest
from . import access, changing, forms, listing, pages
from .details import Details, content_of, details
from .overview import Overview, Overviews
from .places import Places, open_places

#: The blueprint's name, and where it is unless it is registered elsewhere.
NAME, PREFIX = "eventcollector", "/eventcollector"
#: The errors for which there is a page.
_EXPLAINED = (400, 403, 404)
#: In ``flask.g``: who has been admitted.
_VIEWER = "_eventcollector_dashboard_viewer"


class Dashboard:
    """The pages, for each app on which the blueprint is registered."""

    def __init__(
        self,
        authorize: access.Authorize | None,
        *,
        allow_actions: bool,
        show_payloads: bool,
    ) -> None:
        self._authorize = authorize
        self._allow_actions = allow_actions
        self._show_payloads = show_payloads
        self._overviews: WeakKeyDictionary[Flask, Overviews] = WeakKeyDictionary()

    def blueprint(self) -> Blueprint:
        """The routes."""
        made = Blueprint(
            NAME,
            __name__,
            static_folder="static",
            static_url_path="/assets",
            url_prefix=PREFIX,
        )
        made.record(self._on_register)
        made.before_request(self._admit)
        made.after_request(self._protect)
        for code in _EXPLAINED:
            made.register_error_handler(code, _explain)
        views: list[Callable[[], Any]] = [self.live, self.events, self.event]
        for view in views:
            made.add_url_rule(f"/{view.__name__}", view_func=view)
        made.add_url_rule("/", view_func=self.overview)
        made.add_url_rule("/change", view_func=self.change, methods=["POST"])
        return made

    # What holds for each request.

    def _on_register(self, setup: BlueprintSetupState) -> None:
        app = setup.app
        if not isinstance(app, Flask) or (state := state_of(app)) is None:
            raise ConfigurationError(
                "the dashboard's app has no EventCollector: call events.init_app(app)"
                " before app.register_blueprint()"
            )
        if self._authorize is None and not app.debug:
            raise ConfigurationError(
                "events.dashboard() needs authorize=, a function that says who may see"
                " it: only in debug mode (flask run --debug), it may be left out"
            )
        if self._allow_actions and not app.secret_key:
            raise ConfigurationError(
                "events.dashboard(allow_actions=True) needs the app's SECRET_KEY, which"
                " signs its forms: set it before app.register_blueprint()"
            )
        samples = _samples_of(state)
        state.observers.append(samples)
        self._overviews[app] = Overviews(state, samples)

    def _admit(self) -> Response | None:
        if request.endpoint == f"{request.blueprint}.static":
            # Nothing that is secret, and the page that says no needs it.
            return None
        answer = access.admit(self._authorize)
        if isinstance(answer, Response):
            return answer
        setattr(g, _VIEWER, answer)
        return None

    def _protect(self, response: Response) -> Response:
        if request.endpoint == f"{request.blueprint}.static":
            response.headers.update(pages.PROTECTION)
            return response
        response.headers["Cache-Control"] = "no-store"
        if _VIEWER in g or response.status_code in _EXPLAINED:
            # In place.
            pages.Protected.force_type(response)
            forms.set_cookie(response, url(".overview"))
            # Extensions that write into pages, as toolbars do, leave streams alone.
            # What they write would not be allowed here.
            response.response = response.iter_encoded()
        return response

    # The pages.

    def overview(self) -> str:
        """What waits, and whether all is well."""
        return self._page("overview.html", o=self._overview())

    def live(self) -> dict[str, Any]:
        """What changes on the first page, for its script."""
        o = self._overview()
        parts = {name: pages.render(f"parts/{name}.html", o=o) for name in pages.PARTS}
        return {
            "health": o.health,
            "waiting": o.waiting,
            "books": o.books.as_dict(),
            "targets": {str(t.target): [t.waiting, t.dead] for t in o.targets},
            "parts": parts,
        }

    def _overview(self) -> Overview:
        return self._overviews[_app()].get()

    def events(self) -> str:
        """The events that wait or are dead."""
        asked = listing.Asked.of(request.args)
        with open_places(_state()) as places:
            found = listing.find(places, asked)
        return self._page("events.html", asked=asked, found=found, places=places)

    def event(self) -> str:
        """One event."""
        with open_places(_state()) as places:
            found = details(_state(), places, request.args.get("id", ""))
        if found is None:
            abort(404, " ".join([_UNKNOWN, *map(_may_be_there, places.problems)]))
        return self._page(
            "event.html",
            details=found,
            places=places,
            content=self._content(found),
            show_payloads=self._show_payloads,
        )

    def _content(self, found: Details) -> Any:
        """The content of the event, if it may be shown, and is asked for."""
        is_asked = self._show_payloads and "payload" in request.args
        if not is_asked or found.event is None:
            return None
        changing.log("show", [found.id], _user())
        return content_of(found.event)

    def change(self) -> str:
        """Do what a form asks for; at first, ask whether that is meant."""
        if not self._may_act:
            abort(403, "This dashboard is read-only for you.")
        forms.check(_viewer())
        asked_for = _request_of_form()
        with open_places(_state()) as places:
            selected = _selected(places, asked_for)
            if _must_ask(asked_for):
                return self._confirm(asked_for, selected, places)
            done = changing.carry_out(_state(), places, asked_for, selected, _user())
        return self._page("done.html", asked_for=asked_for, done=done, places=places)

    def _confirm(
        self, asked_for: ControlRequest, selected: changing.Selected, places: Places
    ) -> str:
        return self._page(
            "confirm.html",
            asked_for=asked_for,
            selected=selected,
            places=places,
            asked=listing.Asked.of(request.form),
        )

    @property
    def _may_act(self) -> bool:
        return self._allow_actions and not _viewer().read_only

    def _page(self, template: str, **values: Any) -> str:
        may_act, viewer = self._may_act, _viewer()
        return pages.render(
            template,
            app=_app().name,
            tokens=forms.tokens_for(viewer) if may_act else {},
            may_act=may_act,
            allow_actions=self._allow_actions,
            viewer=viewer,
            most_changed=changing.MOST_CHANGED,
            **values,
        )


_UNKNOWN = (
    "There is no such event here. It may have been delivered, or it is in the memory of"
    " another process."
)


def _may_be_there(unread: Unreadable) -> str:
    return f"It may be in what was not read: {unread}."


def _samples_of(state: AppState) -> Samples:
    folder = state.config.history_dir
    if folder is None:
        return Samples(None)
    return Samples(History(folder, choose_spool_name(state.config, state.app)))


def _app() -> Flask:
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    return app


def _state() -> AppState:
    state = state_of(_app())
    assert state is not None  # noqa: S101 - checked when it was registered
    return state


def _viewer() -> access.Viewer:
    viewer: access.Viewer = getattr(g, _VIEWER)
    return viewer


def _user() -> str:
    """Who it is, for the log."""
    return _viewer().name or f"somebody at {request.remote_addr}"


def _explain(error: HTTPException) -> tuple[str, int]:
    """A page that says why there is none."""
    code = error.code or 500
    text = pages.render("message.html", title=error.name, text=error.description)
    return text, code


def _request_of_form() -> ControlRequest:
    action, queue = (request.form.get(n, "").strip() for n in ("action", "queue"))
    if not action and queue:
        # Enter was pressed in the field for the queue.
        action = "redirect"
    try:
        return changing.request_for(action, queue)
    except ValueError as error:
        abort(400, f"Nothing was changed: {error}.")


def _selected(places: Places, asked_for: ControlRequest) -> changing.Selected:
    form = request.form
    if "every" in form:
        asked = listing.Asked.of(form)
        # Those that came after the question are not among the answer.
        until = form.get("until", type=int)
        return changing.select_matching(places, asked_for, asked, until)
    ids = form.getlist("id")
    if not ids:
        abort(400, "Nothing was changed: choose one event at least.")
    return changing.select_ids(places, ids)


def _must_ask(asked_for: ControlRequest) -> bool:
    """Whether to ask first; to retry a few events is harmless."""
    is_harmless = asked_for.action == "retry" and "every" not in request.form
    return not is_harmless and "agreed" not in request.form
