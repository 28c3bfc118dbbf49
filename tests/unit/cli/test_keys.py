"""`offhost keys`: who can open a repository, and that nothing is lost without a word."""

import json
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from offhost.cli.main import main
from offhost.repository.keys.credentials import KeyFile, RecoveryKey
from offhost.repository.repository import create

PROGRAM = "import sys; from offhost.cli.main import main; sys.exit(main())"


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Offhost = Callable[..., Said]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a key file, `key`, in which nothing else is set."""
    for name in ("OFFHOST_PASSPHRASE", "OFFHOST_RECOVERY_KEY", "OFFHOST_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    KeyFile(bytes(range(32))).save(tmp_path / "key")
    return tmp_path


@pytest.fixture
def offhost(folder: Path, capsys: pytest.CaptureFixture[str]) -> Offhost:
    def run(*arguments: str) -> Said:
        code = main(["--repo", str(folder / "repository"), *arguments])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


@pytest.fixture
def repository(folder: Path) -> Path:
    """A repository that `key` opens."""
    create(folder / "repository", KeyFile(bytes(range(32))))
    return folder / "repository"


def ids(offhost: Offhost) -> dict[str, str]:
    """The wrappers' ids by kind."""
    return {way["kind"]: way["id"] for way in json.loads(offhost("--key-file", "key", "keys", "list", "--json").out)}


def test_a_repository_is_made_with_a_key_file_of_its_own(folder: Path, offhost: Offhost) -> None:
    said = offhost("repo", "init", "--key-file", "new")
    assert (said.code, said.err.count("nothing in the repository can ever be read")) == (0, 1)
    assert offhost("--key-file", "new", "points", "list").code == 0
    assert offhost("--key-file", "key", "points", "list").code == 1


def test_a_key_file_that_exists_is_neither_overwritten_nor_removed(folder: Path, offhost: Offhost) -> None:
    before = (folder / "key").read_text()
    assert offhost("repo", "init", "--key-file", "key").code == 2
    assert (folder / "key").read_text() == before
    assert not (folder / "repository").exists()


def test_where_no_repository_can_be_made_no_key_file_is_left(repository: Path, folder: Path, offhost: Offhost) -> None:
    assert offhost("repo", "init", "--key-file", "new").code == 2
    assert not (folder / "new").exists()


def test_a_recovery_key_is_shown_once_and_opens_the_repository(
    folder: Path, offhost: Offhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = offhost("repo", "init", "--key-file", "new", "--recovery-key")
    (shown,) = re.findall(r"^(?:[0-9A-Z]{5}-){7}[0-9A-Z]{5}$", said.out, re.MULTILINE)
    (folder / "paper").write_text(shown.lower().replace("-", " "))
    assert offhost("--recovery-key-file", "paper", "points", "list").code == 0
    monkeypatch.setenv("OFFHOST_RECOVERY_KEY", shown)
    assert offhost("points", "list").code == 0
    assert shown not in offhost("keys", "list", "--json").out


def test_an_unencrypted_repository_is_made_and_opened_only_by_saying_so(folder: Path, offhost: Offhost) -> None:
    said = offhost("repo", "init", "--unencrypted")
    assert (said.code, "will not be encrypted" in said.err) == (0, True)
    assert offhost("--unencrypted", "points", "list").code == 0
    for options in ([], ["--key-file", "key"]):
        assert offhost(*options, "points", "list").code != 0
    assert offhost("--unencrypted", "keys", "add", "--recovery").code == 2


@pytest.mark.parametrize(
    "asked",
    [
        ["--key-file", "key", "repo", "init", "--unencrypted"],
        ["repo", "init", "--unencrypted", "--key-file", "new"],
        ["repo", "init", "--unencrypted", "--recovery-key"],
        ["repo", "init"],
    ],
)
def test_a_repository_is_made_one_way(folder: Path, offhost: Offhost, asked: list[str]) -> None:
    assert offhost(*asked).code == 2
    assert [path.name for path in folder.iterdir()] == ["key"]


def test_keys_are_added_and_listed_with_their_labels(repository: Path, folder: Path, offhost: Offhost) -> None:
    (folder / "words").write_text("correct horse\nnot this\n")
    assert offhost("--key-file", "key", "keys", "add", "--passphrase-file", "words", "--label", "the office").code == 0
    assert offhost("--key-file", "key", "keys", "add", "--key-file", "second").code == 0
    lines = [line.split("\t") for line in offhost("--passphrase-file", "words", "keys", "list").out.splitlines()]
    assert sorted((kind, label, used, standing) for _, kind, label, _, _, used, standing in lines) == [
        ("key file", "", "", "opens it"),
        ("key file", "", "", "opens it"),
        ("passphrase", "the office", "*", "opens it"),
    ]
    assert offhost("--key-file", "second", "points", "list").code == 0


def test_one_thing_is_added_at_a_time(repository: Path, offhost: Offhost) -> None:
    for asked in ([], ["--recovery", "--key-file", "x"]):
        assert offhost("--key-file", "key", "keys", "add", *asked).code == 2


def test_a_key_is_removed_only_when_confirmed_and_what_is_left_is_said_first(
    repository: Path, offhost: Offhost
) -> None:
    offhost("--key-file", "key", "keys", "add", "--recovery", "--label", "safe")
    recovery = ids(offhost)["recovery"][:6]
    said = offhost("--key-file", "key", "keys", "remove", recovery)
    assert (said.code, "say --yes" in said.err) == (2, True)
    assert re.search(r"the recovery key “safe” \(.*\) will be removed. What opens .* then: the key file \(", said.err)
    assert "run `offhost keys rotate` afterwards" in said.err
    assert offhost("--key-file", "key", "keys", "remove", recovery, "--yes").code == 0
    assert "recovery" not in ids(offhost)


def test_the_key_in_use_goes_only_with_yes_and_the_last_never(repository: Path, offhost: Offhost) -> None:
    own = ids(offhost)["keyfile"]
    said = offhost("--key-file", "key", "keys", "remove", own, "--yes")
    assert (said.code, "is the last one that opens" in said.err) == (2, True)
    offhost("--key-file", "key", "keys", "add", "--recovery")
    said = offhost("--key-file", "key", "keys", "remove", own)
    assert (said.code, "opened the repository just now" in said.err) == (2, True)
    assert offhost("--key-file", "key", "keys", "remove", own, "--yes").code == 0
    assert offhost("--key-file", "key", "points", "list").code == 1


def test_a_lost_key_is_replaced_by_the_recovery_key(repository: Path, folder: Path, offhost: Offhost) -> None:
    shown = json.loads(offhost("--key-file", "key", "keys", "add", "--recovery", "--json").out)["recovery_key"]
    (folder / "paper").write_text(shown)
    (folder / "key").unlink()
    said = offhost("--recovery-key-file", "paper", "keys", "recover", "--key-file", "new")
    assert said.code == 0
    assert re.search(r"Still there: the key file \(.*\). If it is lost for good: offhost keys remove", said.out)
    assert offhost("--key-file", "new", "points", "list").code == 0
    assert offhost("keys", "recover", "--key-file", "newer").code == 2
    assert not (folder / "newer").exists()


def test_a_mistyped_recovery_key_is_asked_for_again_on_a_terminal(
    repository: Path, folder: Path, offhost: Offhost
) -> None:
    shown = json.loads(offhost("--key-file", "key", "keys", "add", "--recovery", "--json").out)["recovery_key"]
    wrong = ("Z" if shown[0] != "Z" else "Y") + shown[1:]
    ours, theirs = pty.openpty()
    with (
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "--repo", str(repository), "keys", "recover", "--key-file", "new"],
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as recovering,
        open(ours, "wb", buffering=0) as terminal,
        open(theirs, "rb"),
    ):
        terminal.write(f"{wrong}\n{shown}\n".encode())
        _, asked = recovering.communicate(timeout=60)
    assert recovering.returncode == 0, asked
    assert "mistyped in group 1 of 8" in asked
    assert offhost("--key-file", "new", "points", "list").code == 0


def test_a_new_epoch_says_whom_it_drops_and_keeps_who_is_named(
    repository: Path, folder: Path, offhost: Offhost
) -> None:
    shown = json.loads(offhost("--key-file", "key", "keys", "add", "--recovery", "--json").out)["recovery_key"]
    (folder / "paper").write_text(shown)
    offhost("--key-file", "key", "keys", "add", "--key-file", "second", "--label", "the old proxy")
    said = offhost("--key-file", "key", "keys", "rotate", "--keep-recovery-key-file", "paper")
    assert said.code == 2
    assert re.search(r"Kept: the recovery key .*\nDropped: the key file “the old proxy” .* not open", said.err)
    assert offhost("--key-file", "second", "points", "list").code == 0
    assert offhost("--key-file", "key", "keys", "rotate", "--keep-recovery-key-file", "paper", "--yes").code == 0
    codes = [
        offhost(*how, "points", "list").code
        for how in (["--key-file", "key"], ["--recovery-key-file", "paper"], ["--key-file", "second"])
    ]
    assert codes == [0, 0, 1]


def test_a_repository_is_opened_one_way_at_a_time(
    repository: Path, folder: Path, offhost: Offhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = offhost("--key-file", "key", "--unencrypted", "points", "list")
    assert (said.code, "--key-file and --unencrypted do not go together" in said.err) == (2, True)
    monkeypatch.setenv("OFFHOST_PASSPHRASE", "wrong")
    assert offhost("--key-file", "key", "points", "list").code == 0, "an option goes before the environment"
    monkeypatch.setenv("OFFHOST_RECOVERY_KEY", RecoveryKey.new().text())
    said = offhost("points", "list")
    assert (said.code, "are both set" in said.err) == (2, True)


def test_no_secret_is_shown_when_its_file_is_wrong(repository: Path, folder: Path, offhost: Offhost) -> None:
    text = (folder / "key").read_text()
    for content in (text[:50], text.replace(" ", ""), text.replace("0", "1", 1), "\n", "words of mine"):
        (folder / "wrong").write_text(content)
        for option in ("--key-file", "--recovery-key-file"):
            said = offhost(option, "wrong", "points", "list")
            assert said.code == 2
            assert not any(
                len(word) > 8 and word in said.err for word in content.split() if word != "offhost-key-file-1"
            )
    (folder / "wrong").write_bytes(b"\xff\xfe")
    assert offhost("--passphrase-file", "wrong", "points", "list").code == 2
    assert offhost("--passphrase-file", "nowhere", "points", "list").code == 2


PROXY = """\
state: {folder}/state
repositories:
  main: {{ path: {folder}/repository, {opened} }}
"""


@pytest.mark.parametrize("opened", ['key_file: "{{file {folder}/key}}"', "encryption: none"])
def test_a_repository_of_the_configuration_is_opened_as_it_says(
    folder: Path, offhost: Offhost, capsys: pytest.CaptureFixture[str], opened: str
) -> None:
    (folder / "proxy.yaml").write_text(PROXY.format(folder=folder, opened=opened.format(folder=folder)))
    common = ["-c", str(folder / "proxy.yaml"), "--repo", "main"]
    assert main([*common, "repo", "init"]) == 0
    assert main([*common, "points", "list"]) == 0
    assert main(["-c", str(folder / "proxy.yaml"), "check"]) == 0
    other = ["--unencrypted"] if "key" in opened else ["--key-file", "key"]
    assert main([*common, *other, "points", "list"]) == 1, "an option goes before the configuration"
    if "key" in opened:
        (folder / "key").write_text("not a key file")
        capsys.readouterr()
        assert main(["-c", str(folder / "proxy.yaml"), "check"]) == 2
        assert f"{{file {folder}/key}}: not an offhost key file" in capsys.readouterr().err
