"""The pytest plugin, in separate projects."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence

import pytest

pytest_plugins = ["pytester"]

APP = """
    import flask
    import pytest
    from flask_eventcollector import EventCollector

    events = EventCollector()

    @pytest.fixture
    def app():
        app = flask.Flask("shop")
        app.config["TESTING"] = True
        events.init_app(app)

        @app.post("/orders")
        def place():
            order = {"sku": flask.request.get_json()["sku"]}
            events.enqueue_event(order, "orders.created")
            return "placed"

        yield app
        with app.app_context():
            events.close(1)
"""

NO_PYTEST_FLASK = ("-p", "no:flask")
WITH_OR_WITHOUT = pytest.mark.parametrize(
    "options", [(), NO_PYTEST_FLASK], ids=["with pytest-flask", "without it"]
)


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with an app, without this project's configuration."""
    pytester.makeini("[pytest]")
    pytester.makeconftest(APP)
    return pytester


def run(project: pytest.Pytester, *options: str) -> pytest.RunResult:
    # With the installed plugins, but without their files.
    return project.runpytest("-p", "no:cacheprovider", *options)


@WITH_OR_WITHOUT
def test_the_fixture_captures_the_events_of_the_app(
    project: pytest.Pytester, options: Sequence[str]
) -> None:
    project.makepyfile(
        """
        def test_order(app, captured_events):
            app.test_client().post("/orders", json={"sku": "A1"})
            captured_events.assert_published("orders.created", {"sku": "A1"}, times=1)

        def test_the_next_test_starts_afresh(captured_events):
            captured_events.assert_nothing_published()
        """
    )

    run(project, *options).assert_outcomes(passed=2)


def test_the_client_of_pytest_flask_may_come_first_or_last(
    project: pytest.Pytester,
) -> None:
    project.makepyfile(
        """
        def test_first(client, captured_events):
            client.post("/orders", json={"sku": "A1"})
            captured_events.assert_published("orders.created", {"sku": "A1"}, times=1)

        def test_last(captured_events, client):
            client.post("/orders", json={"sku": "A1"})
            captured_events.assert_published("orders.created", {"sku": "A1"}, times=1)
        """
    )

    run(project).assert_outcomes(passed=2)


def test_a_failure_ends_at_the_line_of_the_test(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        def test_order(app, captured_events):
            app.test_client().post("/orders", json={"sku": "B2"})
            captured_events.assert_published("orders.created", {"sku": "A1"})
        """
    )

    result = run(project)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            ">       captured_events.assert_published(*",
            "E       AssertionError: expected an event published to 'orders.created'"
            " with the payload {'sku': 'A1'}, but found none.",
            "E         payload[[]'sku'[]]: expected 'A1', found 'B2'",
            "test_a_failure_ends_at_the_line_of_the_test.py:3: AssertionError",
        ]
    )
    result.stdout.no_fnmatch_line("*assertions.py*")


COMPARISON = """
    import re
    from unittest.mock import ANY
    from flask_eventcollector.testing import event

    def post(app, *skus):
        for sku in skus:
            app.test_client().post("/orders", json={"sku": sku})
"""


def compared(project: pytest.Pytester, comparison: str, *options: str) -> list[str]:
    """pytest's explanation of *comparison*, without line numbers."""
    project.makepyfile(
        COMPARISON
        + f"""
    def test_orders(app, captured_events):
        post(app, "A1", "B2", "C3")
        assert {comparison}
        """
    )
    result = run(project, *options)
    result.assert_outcomes(failed=1)
    lines = [line[8:] for line in result.stdout.lines if line.startswith("E  ")]
    return [re.sub(r":\d+ in place", "", line) for line in lines]


def test_a_list_that_differs_is_explained_event_by_event(
    project: pytest.Pytester,
) -> None:
    expected = """[
            event("orders.created", {"sku": "A1"}),
            event("orders.created", {"sku": re.compile("X")}),
            event("orders.created", {"sku": "C3"}),
        ]"""

    assert compared(project, f"captured_events.published == {expected}") == [
        "AssertionError: assert captured events == expected",
        "  the first matches",
        "  [1] expected event('orders.created', {'sku': re.compile('X')})",
        "      found    event('orders.created', {'sku': 'B2'}) (conftest.py)",
        "      payload['sku']: expected re.compile('X'), found 'B2'",
        "  the last matches",
    ]


def test_the_expected_list_may_stand_on_the_left(project: pytest.Pytester) -> None:
    comparison = "[event('orders.created')] * 2 == captured_events.published"

    assert compared(project, comparison) == [
        "AssertionError: assert expected == captured events",
        "  the first 2 match",
        "  [2] expected no more",
        "      found    event('orders.created', {'sku': 'C3'}) (conftest.py)",
    ]


def test_an_event_that_is_missing_is_shown(project: pytest.Pytester) -> None:
    skus = "('A1', 'B2', 'X9', 'C3')"
    comparison = (
        "captured_events.published == "
        f"[event('orders.created', {{'sku': sku}}) for sku in {skus}]"
    )

    assert compared(project, comparison) == [
        "AssertionError: assert captured events == expected",
        "  the first 2 match",
        "  [2] expected event('orders.created', {'sku': 'X9'})",
        "      found    no more",
        "  the last matches",
    ]


def test_an_event_that_is_not_in_the_list_is_compared_with_each(
    project: pytest.Pytester,
) -> None:
    comparison = "event('orders.created', {'sku': 'X9'}) in captured_events.published"

    assert compared(project, comparison, "-vv") == [
        "AssertionError: assert event('orders.created', {'sku': 'X9'}) in captured"
        " events",
        "  event('orders.created', {'sku': 'A1'}) (conftest.py)",
        "      payload['sku']: expected 'X9', found 'A1'",
        "  event('orders.created', {'sku': 'B2'}) (conftest.py)",
        "      payload['sku']: expected 'X9', found 'B2'",
        "  event('orders.created', {'sku': 'C3'}) (conftest.py)",
        "      payload['sku']: expected 'X9', found 'C3'",
    ]


def test_other_comparisons_are_explained_by_pytest(project: pytest.Pytester) -> None:
    lines = compared(project, "[1, 2] == [1, 3] and captured_events.published")

    assert "  At index 1 diff: 2 != 3" in lines


def test_without_an_app_the_fixture_names_what_it_needs(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile("def test_order(captured_events): pass")

    result = run(pytester)

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "captured_events captures what the fixture 'app' publishes, but there is"
            " none: define one that returns your Flask app, or write 'with"
            " events.capture() as captured:'"
        ]
    )


def test_an_app_fixture_that_lacks_a_fixture_itself_is_reported_as_usual(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def app(database): pass

        def test_order(captured_events): pass
        """
    )

    result = run(pytester)

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E       fixture 'database' not found"])


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            "flask.Flask('shop')",
            "captured_events: the app 'shop' has no EventCollector: call"
            " events.init_app(app) when you create it",
        ),
        ("'shop'", "captured_events: the app must be a Flask app, not of type str"),
    ],
)
def test_an_app_without_events_gets_a_clear_error(
    pytester: pytest.Pytester, returned: str, message: str
) -> None:
    pytester.makepyfile(
        f"""
        import flask, pytest

        @pytest.fixture
        def app(): return {returned}

        def test_order(captured_events): pass
        """
    )

    result = run(pytester, *NO_PYTEST_FLASK)

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([message])


# eventcollector_strict


STRICT = "[pytest]\neventcollector_strict = true"


@WITH_OR_WITHOUT
def test_in_strict_mode_each_test_asserts_on_all_that_it_published(
    project: pytest.Pytester, options: Sequence[str]
) -> None:
    project.makeini(STRICT)
    project.makepyfile(
        """
        from conftest import events

        def post(app):
            app.test_client().post("/orders", json={"sku": "A1"})

        def test_that_asserts(app, captured_events):
            post(app)
            captured_events.assert_published("orders.created")

        def test_that_asserts_by_a_list(app, captured_events):
            post(app)
            assert len(captured_events.published) == 1
            assert captured_events.published == captured_events.enqueued

        def test_that_asserts_in_a_block(app):
            with app.app_context(), events.capture() as captured:
                post(app)
            captured.assert_published("orders.created")

        def test_that_publishes_nothing(app):
            assert app

        def test_that_has_no_app():
            pass

        def test_that_passes_over_an_event(app, captured_events):
            post(app)

        def test_without_a_capture(app):
            post(app)
        """
    )

    result = run(project, *options)

    result.assert_outcomes(passed=5, failed=2)
    result.stdout.fnmatch_lines(
        [
            "eventcollector_strict: expected no others to be published, but 1 was not"
            " asserted on:",
            "  event('orders.created', {'sku': 'A1'})*",
            "FAILED *::test_that_passes_over_an_event*",
            "FAILED *::test_without_a_capture*",
        ]
    )


def test_a_failure_of_strict_mode_is_printed_once_with_its_cure(
    project: pytest.Pytester,
) -> None:
    project.makeini(STRICT)
    project.makepyfile(
        """
        def test_order(app):
            app.test_client().post("/orders", json={"sku": "A1"})
        """
    )

    result = run(project)

    result.assert_outcomes(failed=1)
    lines = [line for line in result.stdout.lines if not line.startswith("FAILED")]
    assert sum("not asserted on" in line for line in lines) == 1
    result.stdout.no_fnmatch_line("During handling of *")
    result.stdout.fnmatch_lines(
        [
            "Hint: assert on each, for example by"
            " `captured_events.assert_published('orders.created')`, or leave them out"
            " by `captured_events.ignore('orders.created')`, or"
            " `@pytest.mark.ignore_events('orders.created')`."
        ]
    )


LOGIN = """
    import pytest
    from conftest import events

    def log_in(app):
        with app.app_context(), events.auto_publish():
            events.enqueue_event({"user": "ann"}, "auth.login")

    def order(app):
        log_in(app)
        app.test_client().post("/orders", json={"sku": "A1"})
"""


def test_a_marker_leaves_out_what_strict_mode_would_ask_for(
    project: pytest.Pytester,
) -> None:
    project.makeini(STRICT)
    project.makepyfile(
        test_functions=LOGIN
        + """
    @pytest.mark.ignore_events("auth.*")
    def test_login(app):
        log_in(app)

    @pytest.mark.ignore_events("auth.*")
    def test_an_order_is_another_matter(app):
        order(app)

    @pytest.mark.ignore_events("audit", "orders.*")
    class TestOrders:
        @pytest.mark.ignore_events("auth.login")
        def test_order(self, app):
            order(app)

        def test_login_is_another_matter(self, app):
            order(app)
        """,
        test_module=LOGIN
        + """
    pytestmark = pytest.mark.ignore_events("auth.*")

    def test_login(app, captured_events):
        log_in(app)
        captured_events.assert_published("auth.login", times=1)

    def test_other(app, captured_events):
        order(app)
        captured_events.assert_published("orders.created")
        """,
    )

    result = run(project, "--strict-markers")

    result.assert_outcomes(passed=4, failed=2)
    result.stdout.fnmatch_lines(
        ["FAILED *::test_an_order_is_another*", "FAILED *::test_login_is_another*"]
    )


def test_a_setting_leaves_out_queues_in_all_tests(project: pytest.Pytester) -> None:
    project.makeini(f"{STRICT}\neventcollector_ignore = auth.* audit.*\n  mail.*")
    project.makepyfile(
        LOGIN
        + """
    def test_login(app):
        log_in(app)

    def test_order(app):
        order(app)
        """
    )

    run(project).assert_outcomes(passed=1, failed=1)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        (
            "ignore_events",
            "@pytest.mark.ignore_events() expects a queue or a glob, such as"
            " @pytest.mark.ignore_events('auth.*')",
        ),
        (
            "ignore_events(['auth.*'])",
            "@pytest.mark.ignore_events() expects queues as str, not of type list:"
            " write @pytest.mark.ignore_events('auth.*', 'audit.*')",
        ),
        (
            "ignore_events('auth.*', queue='audit')",
            "@pytest.mark.ignore_events() expects a queue or a glob, such as"
            " @pytest.mark.ignore_events('auth.*')",
        ),
    ],
)
def test_a_bad_marker_gets_a_clear_error(
    project: pytest.Pytester, marker: str, message: str
) -> None:
    project.makepyfile(
        f"""
        import pytest

        @pytest.mark.{marker}
        def test_order(captured_events): pass
        """
    )

    result = run(project, *NO_PYTEST_FLASK)

    result.assert_outcomes(errors=1)
    assert result.stdout.lines.count(message) == 1


def test_a_test_that_fails_in_strict_mode_fails_for_its_own_reason(
    project: pytest.Pytester,
) -> None:
    project.makeini(STRICT)
    project.makepyfile(
        """
        def test_order(app, captured_events):
            app.test_client().post("/orders", json={"sku": "A1"})
            assert 1 == 2
        """
    )

    result = run(project)

    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*not asserted on*")


def test_strict_mode_leaves_apps_without_events_alone(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeini(STRICT)
    pytester.makepyfile(
        """
        import flask, pytest

        @pytest.fixture(params=["flask", "other"])
        def app(request):
            return flask.Flask("shop") if request.param == "flask" else object()

        def test_app(app): assert app
        """
    )

    run(pytester, *NO_PYTEST_FLASK).assert_outcomes(passed=2)


# A project that doesn't use it


def test_it_costs_nothing_who_does_not_use_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_nothing_is_loaded():
            loaded = {name.partition(".")[0] for name in sys.modules}
            assert "flask_eventcollector" in loaded
            assert not loaded & {"flask", "blinker", "pika"}
            assert [1] == [1]
        """
    )

    result = pytester.runpytest_subprocess(*NO_PYTEST_FLASK)

    result.assert_outcomes(passed=1)


def test_the_plugin_loads_without_flask() -> None:
    script = (
        "import sys\n"
        "sys.modules.update(flask=None, blinker=None, pika=None)\n"
        "import flask_eventcollector.pytest_plugin\n"
    )

    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
