"""The rules for imports, checked in the source."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import flask_eventcollector

PACKAGE = "flask_eventcollector"
ROOT = Path(flask_eventcollector.__file__).parent

#: From the outside to the inside. A module imports only from its own room and from
#: rooms further inside.
ROOMS = [
    {"__init__", "pytest_plugin"},
    {"testing"},
    {"extension", "outbox"},
    {"cli", "dashboard", "debugtoolbar", "hooks"},
    {"doctor", "verifying"},
    {"backlog"},
    {"app_state"},
    {"dispatch"},
    {"contexts"},
    {"collecting"},
    {"transactions"},
    {"brokers", "consuming", "monitoring", "stores"},
    {"databases"},
    {"delivery"},
    {"config"},
    {"messages"},
    {"signals"},
    {"errors", "events"},
]
UNITS = {unit for room in ROOMS for unit in room}

#: Which modules may import each foreign package.
FOREIGN = {
    "blinker": {"delivery.notifier", "dispatch", "signals", "testing"},
    "click": {"cli"},
    "flask": {
        "app_state",
        "cli",
        "contexts",
        "dashboard",
        "debugtoolbar",
        "dispatch",
        "extension",
        "hooks",
        "pytest_plugin",
        "testing",
        "verifying.worker",
    },
    "flask_debugtoolbar": {"debugtoolbar.panel"},
    "itsdangerous": {"dashboard.forms"},
    "jinja2": {"dashboard.pages"},
    "markupsafe": {"dashboard.pages"},
    "opentelemetry": {
        "delivery.instrumentation",
        "monitoring.opentelemetry",
        "monitoring.tracing.opentelemetry",
        "monitoring.tracing.spans",
    },
    "pika": {"brokers.rabbitmq"},
    "prometheus_client": {"monitoring.prometheus"},
    "pytest": {"pytest_plugin", "testing"},
    "sentry_sdk": {"monitoring.tracing.sentry"},
    "sqlalchemy": {
        "consuming.inbox",
        "consuming.once",
        "consuming.table",
        "databases",
        "stores.outbox",
        "transactions.session_events",
        "transactions.sources",
    },
    "werkzeug": {"dashboard"},
    # Of the standard library.
    "sqlite3": {"stores.spool"},
}

#: The permitted imports outwards: of a type, or in a function.
OUTWARDS = {
    ("extension", "testing", "call"),
    ("extension", "testing", "type"),
    # A process of its own, with an app that is like any other.
    ("verifying", "extension", "call"),
}

#: The permitted foreign types that are not loaded.
FOREIGN_TYPES = {
    ("backlog.outbox", "sqlalchemy"),
    ("doctor.outbox", "sqlalchemy"),
    ("config.settings", "flask"),
    ("extension", "sqlalchemy"),
    ("transactions.bound_sessions", "sqlalchemy"),
    ("transactions.outbox_table", "sqlalchemy"),
}


class Import(NamedTuple):
    """One import, with its purpose."""

    name: str
    #: The name that it imports from there.
    taken: str
    #: ``load``: at import; ``call``: in a function; ``type``: for type checkers.
    when: str

    @property
    def root(self) -> str:
        return self.name.partition(".")[0]

    @property
    def parts(self) -> list[str]:
        return [*self.name.split("."), self.taken]


class Imports(ast.NodeVisitor):
    """Collects a module's imports."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._when = "load"
        self.found: set[Import] = set()
        self.visit(ast.parse(MODULES[module].read_text(encoding="utf-8")))

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {Import(alias.name, "", self._when) for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = self._base(node)
        for alias in node.names:
            full = f"{base}.{alias.name}"
            is_module = full.removeprefix(f"{PACKAGE}.") in MODULES
            name, taken = (full, "") if is_module else (base, alias.name)
            self.found.add(Import(name, taken, self._when))

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            self._inside(node, "type")
        else:
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._inside(node, "call")

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._inside(node, "call")

    def _inside(self, node: ast.AST, when: str) -> None:
        before, self._when = self._when, when
        self.generic_visit(node)
        self._when = before

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        above = [PACKAGE, *self._module.split(".")]
        if self._module == "__init__":
            above = [PACKAGE]
        elif MODULES[self._module].name == "__init__.py":
            above = above[: len(above) - node.level + 1]
        else:
            above = above[: -node.level]
        return ".".join([*above, node.module] if node.module else above)


def modules() -> Iterator[tuple[str, Path]]:
    """Each module's name, without the package's, and its file."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if len(parts) > 1 and parts[-1] == "__init__":
            parts = parts[:-1]
        yield ".".join(parts), path


def unit_of(module: str) -> str:
    """The room of *module*: a package, or a module beside them."""
    return module.partition(".")[0]


def ours(module: str, *when: str) -> set[str]:
    """The other rooms of the package from which *module* imports."""
    found = {unit_of(name) for name in our_modules(module, *when)}
    return found - {unit_of(module)}


def our_modules(module: str, *when: str) -> set[str]:
    """The modules of the package that *module* imports."""
    return {
        i.name.removeprefix(f"{PACKAGE}.") if "." in i.name else "__init__"
        for i in IMPORTS[module]
        if i.root == PACKAGE and i.when in when
    }


def room_of(unit: str) -> int:
    return next(n for n, room in enumerate(ROOMS) if unit in room)


def inside(module: str, places: set[str]) -> bool:
    """Whether *module* is one of *places*, or in one."""
    return any(f"{module}.".startswith(f"{place}.") for place in places)


MODULES = dict(modules())
IMPORTS = {module: Imports(module).found for module in MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_each_module_has_its_place(module: str) -> None:
    assert unit_of(module) in UNITS


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_inwards(module: str) -> None:
    here = room_of(unit_of(module))
    imported = ours(module, "load")
    assert {unit for unit in imported if room_of(unit) <= here} == set()


@pytest.mark.parametrize("module", MODULES)
def test_types_and_deferred_imports_point_inwards_with_few_exceptions(
    module: str,
) -> None:
    here = unit_of(module)
    outwards = {
        (here, unit, when)
        for when in ("type", "call")
        for unit in ours(module, when)
        if room_of(unit) <= room_of(here)
    }
    assert outwards <= OUTWARDS


def test_no_module_is_in_a_circle() -> None:
    graph = {m: our_modules(m, "load", "type") - {m} for m in MODULES}
    graph["__init__"] = set()  # It imports only the requested names.
    tuple(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", MODULES)
def test_private_names_stay_in_their_room(module: str) -> None:
    foreign = {
        i
        for i in IMPORTS[module]
        if i.root == PACKAGE
        and any(part.startswith("_") and part[:2] != "__" for part in i.parts)
        and unit_of(i.name.removeprefix(f"{PACKAGE}.")) != unit_of(module)
    }
    assert foreign == set()


def test_the_top_level_holds_few_modules() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 10


@pytest.mark.parametrize("foreign", FOREIGN)
def test_what_is_not_ours_is_used_at_its_own_edge_only(foreign: str) -> None:
    users = {
        (module, i.when)
        for module in MODULES
        for i in IMPORTS[module]
        if i.root == foreign and not inside(module, FOREIGN[foreign])
    }
    types = {module for module, when in users if when == "type"}
    assert {module for module, when in users if when != "type"} == set()
    assert {(module, foreign) for module in types} <= FOREIGN_TYPES


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_imported_that_is_not_declared(module: str) -> None:
    known = {PACKAGE, *FOREIGN, *sys.stdlib_module_names}
    unknown = {(i.root, i.when) for i in IMPORTS[module] if i.root not in known}
    # Type checkers bring it along.
    assert unknown <= {("typing_extensions", "type")}


def test_what_is_not_ours_is_declared_as_a_requirement() -> None:
    project = (ROOT.parent / "pyproject.toml").read_text(encoding="utf-8")
    dependencies = re.search(r"^dependencies = \[(.*?)^\]", project, re.M | re.S)
    assert dependencies is not None
    required = {name.lower() for name in re.findall(r'"([\w-]+)', dependencies[1])}
    # The test kit requires pytest to be installed, and settings or extras the others.
    optional = {
        "flask_debugtoolbar",
        "opentelemetry",
        "prometheus_client",
        "pytest",
        "sentry_sdk",
        "sqlalchemy",
    }
    assert required == FOREIGN.keys() - optional - sys.stdlib_module_names
    assert re.search(r"^sqlalchemy = \[\"SQLAlchemy>=2\.0\.16\"\]$", project, re.M)


@pytest.mark.parametrize("name", [*FOREIGN, "annotations"])
def test_what_is_not_ours_is_not_among_the_public_names(name: str) -> None:
    assert name not in flask_eventcollector.__all__


@pytest.mark.parametrize("name", flask_eventcollector.__all__)
def test_each_public_name_is_there_and_ours(name: str) -> None:
    value = getattr(flask_eventcollector, name)
    assert getattr(value, "__module__", PACKAGE).partition(".")[0] in (
        PACKAGE,
        "blinker",
    )


def test_the_imports_are_read_as_python_reads_them() -> None:
    for module in (
        "brokers.rabbitmq.session",
        "brokers",
        "delivery.ledger",
        "__init__",
    ):
        for found in IMPORTS[module]:
            importlib.import_module(found.name)


def run(code: str) -> None:
    """Run *code* in a fresh interpreter."""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_core_runs_without_flask_pika_and_blinker() -> None:
    run(
        "import importlib, sys, types\n"
        "sys.modules.update(dict.fromkeys(['flask', 'pika', 'blinker']))\n"
        f"package = sys.modules[{PACKAGE!r}] = types.ModuleType({PACKAGE!r})\n"
        f"package.__path__ = [{str(ROOT)!r}]\n"
        "for name in 'delivery.log', 'brokers.memory', 'stores.spool.spool':\n"
        f"    importlib.import_module({PACKAGE!r} + '.' + name)\n"
    )


def test_all_public_names_are_there_without_sqlalchemy() -> None:
    run(
        "import sys\n"
        "sys.modules['sqlalchemy'] = None\n"
        f"from {PACKAGE} import *\n"
        "try:\n"
        "    make_inbox_table(None)\n"
        "except ImportError as error:\n"
        "    assert \"pip install 'SQLAlchemy>=2.0.16'\" in str(error)\n"
        "else:\n"
        "    raise AssertionError\n"
    )


def test_only_binding_a_session_loads_sqlalchemy() -> None:
    run(
        "import sys\n"
        f"from {PACKAGE} import EventCollector\n"
        "assert 'sqlalchemy' not in sys.modules\n"
        "from sqlalchemy.orm import Session\n"
        "EventCollector().bind_session(Session)\n"
        # This part of it needs greenlet.
        "assert 'sqlalchemy.ext.asyncio' not in sys.modules\n"
    )


def test_the_test_kit_is_not_loaded_in_production() -> None:
    run(
        "import sys\n"
        f"from {PACKAGE} import EventCollector\n"
        f"assert not [name for name in sys.modules if 'pytest' in name]\n"
        f"assert '{PACKAGE}.testing' not in sys.modules\n"
    )
