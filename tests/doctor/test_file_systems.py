"""Of which type a folder's file system is."""

from __future__ import annotations

from pathlib import Path

import pytest

from flask_eventcollector.doctor import file_systems
from flask_eventcollector.doctor.file_systems import existing, free_bytes, type_of

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:30 / /srv rw - nfs4 files:/srv rw
31 30 0:31 / /srv/with\\040space rw shared:5 master:2 - xfs /dev/sdb1 rw
32 22 0:32 / /run rw - tmpfs tmpfs rw
33 22 0:33 / /run rw - ramfs ramfs rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/shop", "ext4"),
        ("/srv/shop", "nfs4"),
        ("/srvice", "ext4"),
        ("/srv/with space/shop", "xfs"),
        ("/run/shop", "ramfs"),
    ],
)
def test_the_innermost_mount_counts(
    path: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    monkeypatch.setattr(file_systems, "_MOUNTS", mounts)
    assert type_of(Path(path)) == kind


def test_without_a_list_of_mounts_it_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_systems, "_MOUNTS", tmp_path / "none")
    assert type_of(tmp_path) == ""


def test_a_folder_that_does_not_exist_will_be_where_its_parent_is(
    tmp_path: Path,
) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path
    assert existing(tmp_path) == tmp_path
    assert free_bytes(tmp_path) > 0
