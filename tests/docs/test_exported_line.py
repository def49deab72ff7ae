"""The line of an export on docs/command-line.md is imported, and exported again."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.test_file_states import run
from tests.docs.reader import find_one, runs

LINE = find_one(page="docs/command-line.md", language="json")


@runs(LINE)
def test_the_line_is_what_export_writes_and_import_reads(tmp_path: Path) -> None:
    shown = json.loads(LINE.code)
    folder, file = tmp_path / "spool", tmp_path / "exported"
    file.write_text(json.dumps(shown))

    imported = run(folder, "import", str(file))

    assert imported.exit_code == 0, imported.output
    assert [json.loads(line) for line in run(folder, "export").stdout.splitlines()] == [
        shown
    ]
