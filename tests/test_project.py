"""Statements about the project are the same in all places."""

from __future__ import annotations

import configparser
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
REPOSITORY = "https://github.com/flask-eventcollector/flask-eventcollector"
EXPRESSION = r"\$\{\{ matrix\.([\w-]+) \}\}"


def read(name: str) -> str:
    return (ROOT / name).read_text()


PYPROJECT: dict[str, Any] = tomllib.loads(read("pyproject.toml"))
PROJECT: dict[str, Any] = PYPROJECT["project"]


def load(path: Path) -> dict[str, Any]:
    # BaseLoader: "on" stays a string, and 3.10 is not 3.1.
    loaded: dict[str, Any] = yaml.load(path.read_text(), yaml.BaseLoader)
    return loaded


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = load(path)["jobs"]
    return found


TESTS = jobs(ROOT / ".github" / "workflows" / "tests.yml")


def tox_environments() -> set[str]:
    """The names in tox.ini, and tox's built-in ones."""
    sections = configparser.ConfigParser(interpolation=None)
    sections.read_string(read("tox.ini"))
    return {s.partition(":")[2] or "py" for s in sections if s.startswith("testenv")}


def matrix(job: dict[str, Any], key: str) -> set[str]:
    """All values that a job's matrix has for *key*."""
    values = job.get("strategy", {}).get("matrix", {})
    more = {row[key] for row in values.get("include", []) if key in row}
    return {*values.get(key, []), *more}


def used_environments(job: dict[str, Any]) -> set[str]:
    """The tox environments that a job runs."""
    used: set[str] = set()
    for step in job.get("steps", []):
        for name in re.findall(r"tox run -e (\$\{\{.*?\}\}|\S+)", step.get("run", "")):
            variable = re.fullmatch(EXPRESSION, name)
            used |= matrix(job, variable[1]) if variable else set(name.split(","))
    return used


def classified_versions() -> set[str]:
    found = (re.fullmatch(r".*:: (3\.\d+)", line) for line in PROJECT["classifiers"])
    return {match[1] for match in found if match}


# Versions of Python.


def test_the_workflow_tests_each_version_that_is_classified() -> None:
    assert matrix(TESTS["python"], "python") == classified_versions()


def test_the_lowest_version_is_the_required_one() -> None:
    lowest = min(classified_versions(), key=lambda v: int(v.partition(".")[2]))

    assert PROJECT["requires-python"] == f">={lowest}"
    lowest_job = [
        row
        for row in TESTS["python"]["strategy"]["matrix"]["include"]
        if row["tox"] == "lowest"
    ]
    assert [row["python"] for row in lowest_job] == [lowest]


# Workflows.


def test_only_flasks_main_branch_may_fail() -> None:
    rows = TESTS["python"]["strategy"]["matrix"]["include"]

    assert [row["tox"] for row in rows if "may-fail" in row] == ["flask-main"]
    others = [job for name, job in TESTS.items() if name != "python"]
    assert not any("continue-on-error" in job for job in others)


def test_the_workflow_has_both_versions_of_rabbitmq_as_a_service() -> None:
    job = TESTS["rabbitmq"]

    assert matrix(job, "rabbitmq") == {"3.13", "4"}
    service = job["services"]["rabbitmq"]
    assert re.fullmatch(f"rabbitmq:{EXPRESSION}", service["image"])
    assert f"{job['env']['TEST_RABBITMQ_PORT']}:5672" in service["ports"]
    # It names only folders and files that exist.
    (run,) = [s["run"] for s in job["steps"] if "tox run" in s.get("run", "")]
    paths = re.findall(r"\btests/\S+", run)
    assert paths
    assert all((ROOT / path).exists() for path in paths)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_each_environment_of_tox_that_a_workflow_runs_exists(path: Path) -> None:
    used = {name for job in jobs(path).values() for name in used_environments(job)}

    assert used <= tox_environments()


def test_each_environment_that_tox_runs_by_itself_is_in_the_workflow() -> None:
    listed = re.search(r"^env_list = (.*)$", read("tox.ini"), re.M)
    assert listed
    used = {name for job in TESTS.values() for name in used_environments(job)}

    assert set(listed[1].split(", ")) <= used


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_only_read_and_its_actions_are_pinned(path: Path) -> None:
    assert load(path)["permissions"] == {"contents": "read"}
    granted = {n: j["permissions"] for n, j in jobs(path).items() if "permissions" in j}
    assert granted in ({}, {"publish": {"id-token": "write"}})
    used = [
        s["uses"]
        for j in jobs(path).values()
        for s in j.get("steps", [])
        if "uses" in s
    ]
    assert used
    assert all(re.fullmatch(r"[\w/-]+@(v\d+|release/v\d+)", action) for action in used)


def test_a_tag_is_published_only_after_the_tests_and_from_its_environment() -> None:
    path = ROOT / ".github" / "workflows" / "release.yml"
    publish = jobs(path)["publish"]

    assert load(path)["on"] == {"push": {"tags": ["v*"]}}
    assert set(publish["needs"]) == {"tests", "build"}
    assert publish["environment"] == "pypi"
    assert jobs(path)["tests"]["uses"] == "./.github/workflows/tests.yml"


# Issue forms.


def test_each_issue_form_has_what_github_requires() -> None:
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))

    assert [form.stem for form in forms] == ["bug", "feature"]
    for form in map(load, forms):
        assert {"name", "description", "body"} <= form.keys()
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        identifiers = [field["id"] for field in fields]
        assert len(set(identifiers)) == len(identifiers)
        assert all(field["attributes"]["label"] for field in fields)


# Links, changes, pinned tools.


def test_the_links_lead_into_one_repository() -> None:
    urls: dict[str, str] = PROJECT["urls"]

    assert urls.keys() == {
        "Homepage",
        "Documentation",
        "Source",
        "Changes",
        "Issues",
    }
    assert urls["Source"] == REPOSITORY
    assert urls["Changes"] == f"{REPOSITORY}/blob/main/CHANGES.md"
    assert all(url.startswith(REPOSITORY) for url in urls.values())


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_a_pages_links_to_the_repository_lead_to_what_is_there(name: str) -> None:
    text = read(name)

    links = re.findall(r"https://github\.com/[^/]*eventcollector/[^\s)>\"']*", text)
    assert all(link.startswith(REPOSITORY) for link in links)
    for link in links:
        path = re.match(r".*/(?:blob|tree)/[^/]+/([^#]+)", link)
        assert path is None or (ROOT / path[1]).exists(), link
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (ROOT / target).exists(), target


def test_the_changes_begin_with_what_is_unreleased() -> None:
    headings = re.findall(r"^## (.*)$", read("CHANGES.md"), re.M)

    assert headings[0] == "Unreleased"
    # Released versions have a date.
    assert all(
        re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", h) for h in headings[1:]
    )


def test_the_hooks_run_the_pinned_ruff() -> None:
    (pinned,) = PYPROJECT["dependency-groups"]["style"]
    (repository,) = load(ROOT / ".pre-commit-config.yaml")["repos"]
    hooks = {hook["id"]: hook for hook in repository["hooks"]}

    for hook in ("ruff-check", "ruff-format"):
        assert hooks[hook]["additional_dependencies"] == [pinned]
    environments = re.findall(r"tox run -e (\S+)", hooks["mypy"]["entry"])
    assert environments
    assert set(environments) <= tox_environments()


def test_tools_that_find_new_faults_with_each_release_are_pinned() -> None:
    groups: dict[str, list[str]] = PYPROJECT["dependency-groups"]
    wanted = [*groups["style"], *groups["typing"]]
    pinned = {re.split(r"\W", tool)[0] for tool in wanted if "==" in tool}

    assert pinned >= {"ruff", "mypy", "pyright"}


def test_the_contributors_page_names_environments_and_scripts_that_exist() -> None:
    text = read("CONTRIBUTING.md")

    named = {
        e for es in re.findall(r"tox run -e ([\w,-]+)", text) for e in es.split(",")
    }
    assert named <= tox_environments()
    scripts = set(re.findall(r"`(scripts/\w+)", text))
    assert "scripts/test" in scripts
    assert all((ROOT / script).exists() for script in scripts)
