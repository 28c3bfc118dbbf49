"""`offhost retention` and `offhost points forget|pin|unpin`, on a real repository."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offhost.cli.main import main
from offhost.repository.points.manifest import Manifest
from offhost.state import State
from support.dated_points import by_job, put_point
from support.repositories import PASSPHRASE, make, opened

Run = Callable[..., tuple[int, str, str]]

PROXY = """\
state: {folder}/state
vcenters:
  main: {{ host: 127.0.0.1, port: 1, user: u, password: "{{env VC_PASSWORD}}", ca_file: /nowhere.pem }}
repositories:
  main: {{ path: {folder}/repository, passphrase: "{{env OFFHOST_PASSPHRASE}}" }}
"""
JOB = """\
job: nightly
vcenter: main
select: {{ include: [ {{ name: "*" }} ] }}
repository: main
retention: {{ {rules} }}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(tmp_path / "repository")


@pytest.fixture
def points(root: Path) -> list[Manifest]:
    """Three points of web01, each a day after the one before, and one of db01."""
    with opened(root) as repository:
        web = [put_point(repository, origin=by_job("nightly")) for _ in range(3)]
        return [*web, put_point(repository, "db01")]


@pytest.fixture
def run(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command on the repository; returns exit code, standard output and error."""
    monkeypatch.setenv("OFFHOST_PASSPHRASE", PASSPHRASE.text)
    monkeypatch.setenv("VC_PASSWORD", "secret")

    def ended(*command: str, options: tuple[str, ...] = ("--repo", str(root))) -> tuple[int, str, str]:
        code = main([*options, *command])
        said = capsys.readouterr()
        return code, said.out, said.err

    return ended


@pytest.fixture
def with_job(root: Path) -> Callable[[str], tuple[str, ...]]:
    """Writes proxy.yaml with a job of these rules; returns the options that name it."""

    def written(rules: str) -> tuple[str, ...]:
        (root.parent / "jobs.d").mkdir(exist_ok=True)
        (root.parent / "jobs.d" / "nightly.yaml").write_text(JOB.format(rules=rules))
        (root.parent / "proxy.yaml").write_text(PROXY.format(folder=root.parent))
        return ("-c", str(root.parent / "proxy.yaml"))

    return written


def rows(out: str) -> list[list[str]]:
    return [line.split("\t") for line in out.splitlines()]


def listed(run: Run, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("points", "list", "--json", *options)[1])
    return found


# --- retention


def test_explain_tells_of_each_point_and_changes_nothing(run: Run, points: list[Manifest]) -> None:
    code, out, _ = run("retention", "explain", "--keep-last", "1", "--daily", "2")
    assert code == 0
    assert rows(out) == [
        [points[3].id[:12], "db01", "2026-01-01 22:00:00", "KEEP", "last 1 of 1; daily 2026-01-01 (1 of 2)"],
        [points[0].id[:12], "web01", "2026-01-01 22:00:00", "EXPIRE", "beyond the last 1; beyond daily 2"],
        [points[1].id[:12], "web01", "2026-01-02 22:00:00", "KEEP", "daily 2026-01-02 (2 of 2)"],
        [points[2].id[:12], "web01", "2026-01-03 22:00:00", "KEEP", "last 1 of 1; daily 2026-01-03 (1 of 2)"],
    ]
    assert len(listed(run)) == 4


def test_apply_tells_what_it_forgot_and_how_the_space_comes_back(run: Run, points: list[Manifest]) -> None:
    code, out, err = run("retention", "apply", "--keep-last", "1", "--dry-run")
    assert (code, [row[0] for row in rows(out)]) == (0, [points[0].id[:12], points[1].id[:12]])
    assert err == "Would forget 2 restore points of 1 VM; kept: 2.\n"
    assert len(listed(run)) == 4
    code, applied, err = run("retention", "apply", "--keep-last", "1")
    assert (code, applied) == (0, out)
    assert err.startswith("Forgot 2 restore points of 1 VM; kept: 2.\n")
    assert "`offhost repo gc`" in err
    assert [point["id"] for point in listed(run)] == [points[3].id, points[2].id]
    assert run("retention", "apply", "--keep-last", "1")[1] == ""


def test_days_are_those_of_the_zone_that_is_named(run: Run, points: list[Manifest]) -> None:
    _, out, _ = run("retention", "explain", "--daily", "9", "--timezone", "Asia/Tokyo", "--vm", "db01")
    assert rows(out)[0][4] == "daily 2026-01-02 (1 of 9)"


def test_a_tag_is_put_with_the_backup_shown_and_kept_by(run: Run, root: Path) -> None:
    image = root.parent / "disk.raw"
    image.write_bytes(bytes(1 << 20))
    for tags in (("--tag", "release", "--tag", "audit"), (), ()):
        assert run("backup", "image", str(image), "--name", "web", *tags)[0] == 0
    assert [each["tags"] for each in listed(run)] == [["release", "audit"], [], []]
    assert [row[7] for row in rows(run("points", "list")[1])] == ["release audit", "", ""]
    assert [row[3] for row in rows(run("retention", "explain", "--tag", "audit")[1])] == ["KEEP", "EXPIRE", "KEEP"]


def test_decisions_as_json(run: Run, points: list[Manifest]) -> None:
    _, out, _ = run("retention", "explain", "--within", "24h", "--vm", "vc/web01", "--json")
    told = json.loads(out)
    assert [(each["id"], each["keep"], each["reasons"]) for each in told] == [
        (points[0].id, False, ["more than 1d older than the latest"]),
        (points[1].id, True, ["within 1d"]),
        (points[2].id, True, ["within 1d"]),
    ]
    assert {(each["vm"], each["vm_id"]) for each in told} == {("web01", "vc/web01")}


def test_a_point_that_does_not_open_is_kept_and_warned_of(run: Run, root: Path, points: list[Manifest]) -> None:
    (file,) = root.glob(f"points/*/{points[2].id}")
    file.chmod(0o600)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    code, out, err = run("retention", "apply", "--keep-last", "1")
    assert code == 3
    assert f"warning: point {points[2].id} does not open" in err
    assert [row[0] for row in rows(out)] == [points[0].id[:12]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "no rule says what to keep"),
        (("--timezone", "UTC"), "no rule says what to keep"),
        (("--keep-last", "0"), "no rule says what to keep"),
        (("--within", "7"), "write it as 36h, 30d or 8w"),
        (("--timezone", "Europe/Zürich", "--daily", "1"), "no time zone is called so"),
        (("--daily", "-1"), "-1 is not in the range"),
        (("--daily", "1", "--vm", "nobody"), "nobody: no restore point of a VM of that name"),
    ],
)
def test_what_is_asked_wrongly_expires_nothing(
    run: Run, points: list[Manifest], options: tuple[str, ...], says: str
) -> None:
    code, _, err = run("retention", "apply", *options)
    assert code == 2
    assert says in err
    assert len(listed(run)) == len(points)


def test_without_rules_the_jobs_say_what_is_kept(
    run: Run, points: list[Manifest], with_job: Callable[[str], tuple[str, ...]], root: Path
) -> None:
    options = with_job("keep_last: 2")
    code, out, _ = run("retention", "explain", options=options)
    assert {row[4] for row in rows(out)} == {"made without a job: kept", "made by `nightly` of another offhost: kept"}
    with opened(root) as repository:
        ours = put_point(repository, origin=by_job("nightly", State.open(root.parent / "state").installation))
    code, out, _ = run("retention", "apply", options=options)
    assert code == 0
    assert [row[0] for row in rows(out)] == [points[0].id[:12], points[1].id[:12]]
    assert {point["id"] for point in listed(run)} == {points[2].id, points[3].id, ours.id}
    assert run("retention", "apply", options=("--repo", "main", *options))[0] == 0


def test_what_is_deleted_is_not_known_while_the_vcenter_does_not_answer(
    run: Run, points: list[Manifest], with_job: Callable[[str], tuple[str, ...]]
) -> None:
    code, out, err = run("retention", "apply", options=with_job("after_vm_deleted: 1h"))
    assert (code, out) == (3, ""), err
    assert "warning: main: none of its VMs counts as deleted:" in err


# --- points


def test_a_forgotten_point_leaves_the_list_and_comes_back_with_a_pin(run: Run, points: list[Manifest]) -> None:
    code, out, err = run("points", "forget", points[0].id[:12], points[1].id[:12])
    assert code == 0
    assert [line[:12] for line in out.splitlines()] == ["Forgot point"] * 2
    assert "`offhost repo gc`" in err
    assert len(listed(run)) == 2
    assert {each["id"]: each["forgotten"] for each in listed(run, "--forgotten")} == {
        points[0].id: "by name",
        points[1].id: "by name",
    }
    code, out, _ = run("points", "pin", points[0].id[:12], "--note", "audit of 2026")
    assert out.startswith(f"Pinned point {points[0].id[:12]} of web01 (2026-01-01 22:00:00 UTC)")
    assert [row[7] for row in rows(run("points", "list", "--vm", "web01")[1])] == ["audit of 2026", ""]
    assert [each.get("pinned") for each in listed(run, "--vm", "web01")] == ["audit of 2026", None]
    assert run("retention", "apply", "--keep-last", "1")[1] == ""
    code, out, _ = run("points", "unpin", points[0].id)
    assert "it was forgotten before, and is so again" in out
    assert len(listed(run)) == 2


def test_the_last_point_of_a_vm_has_to_be_meant(run: Run, points: list[Manifest]) -> None:
    code, _, err = run("points", "forget", "db01@latest")
    assert code == 2
    assert f"name it in full, {points[3].id}, or add --last" in err
    code, out, err = run("points", "forget", "db01@latest", "--last", "--dry-run", "--json")
    assert json.loads(out) == [{"id": points[3].id, "vm": "db01", "forgotten": False}]
    assert len(listed(run)) == 4
    assert run("points", "forget", points[3].id)[0] == 0
    assert len(listed(run)) == 3


def test_one_point_that_is_refused_keeps_all_of_them(run: Run, points: list[Manifest]) -> None:
    assert run("points", "pin", points[1].id)[0] == 0
    for wrong in ("ffff", points[1].id, "db01@latest"):
        assert run("points", "forget", points[0].id, wrong)[0] == 2
    assert len(listed(run)) == 4


def test_a_note_is_short(run: Run, points: list[Manifest]) -> None:
    code, _, err = run("points", "pin", points[0].id, "--note", "x" * 201)
    assert (code, "at most 200" in err) == (2, True)


def test_unpinning_what_is_not_pinned_says_so(run: Run, points: list[Manifest]) -> None:
    code, _, err = run("points", "unpin", points[0].id, "--json")
    assert (code, "is not pinned" in err) == (2, True)
