"""What is wrong before anything is done, with the configuration, vCenter or repository: nothing is touched."""

import shutil
from collections.abc import Callable, Iterator

import pytest

from offhost.repository.keys.credentials import Passphrase
from offhost.repository.objects.sealed import ObjectType, get_json, seal_json
from offhost.repository.repository import Repository
from support.site import PASSPHRASE, Site


def never_asked_for_a_snapshot(site: Site) -> bool:
    methods = site.vcenter.calls().methods
    return not any(method.startswith("CreateSnapshot") for method in methods)


@pytest.fixture(autouse=True)
def nothing_is_touched(site: Site) -> Iterator[None]:
    site.vcenter.calls(reset=True)
    yield
    assert never_asked_for_a_snapshot(site)
    assert site.snapshots() == ["before the update"]


def test_a_wrong_password_is_told_once_and_not_tried_again(site: Site) -> None:
    site.secret("password", "not the password")
    said = site.run_job()
    assert said.code == 1
    error, hint = said.told_once()
    assert "user and password are not accepted" in error
    assert "password" in hint
    assert site.vcenter.calls().methods["Login"] <= 2, "accounts are locked by repetition"


def test_a_wrong_thumbprint_sends_no_password(site: Site) -> None:
    file = site.folder / "proxy.yaml"
    file.write_text(file.read_text().replace(site.vcenter.thumbprint, ":".join(["AB"] * 32)))
    said = site.run_job()
    assert said.code == 1
    error, hint = said.told_once()
    assert "certificate is not the pinned one" in error
    assert "only if the certificate was renewed on purpose" in hint
    assert "Login" not in site.vcenter.calls().methods


def test_a_wrong_passphrase(site: Site) -> None:
    site.secret("passphrase", "not the passphrase")
    said = site.run_job()
    assert said.code == 1
    error, hint = said.told_once()
    assert "the passphrase does not open it" in error
    assert "check the passphrase" in hint


def test_a_passphrase_that_cannot_be_read(site: Site) -> None:
    (site.folder / "passphrase").unlink()
    said = site.run_job()
    assert said.code == 1
    error, hint = said.told_once()
    assert f"{{file {site.folder}/passphrase}}" in error
    assert "read" in hint


def no_folder(site: Site) -> None:
    shutil.rmtree(site.repository)


def an_empty_folder(site: Site) -> None:
    shutil.rmtree(site.repository)
    site.repository.mkdir()


def a_file(site: Site) -> None:
    shutil.rmtree(site.repository)
    site.repository.write_text("not a directory")


@pytest.mark.parametrize("spoil", [no_folder, an_empty_folder, a_file])
def test_where_there_is_no_repository(site: Site, spoil: Callable[[Site], None]) -> None:
    spoil(site)
    for said in (site.run_job(), site.offhost("--repo", "main", "points", "list")):
        assert said.code == 1
        error, _ = said.told_once()
        assert str(site.repository) in error


def test_a_repository_of_a_newer_version(site: Site) -> None:
    with Repository.open(site.repository, Passphrase(PASSPHRASE)) as repository:
        newer = get_json(repository.backend, repository.keyring, ObjectType.CONFIG, "config/00000001")
        newer |= {"read": ["holographic packs"]}
        name = "config/00000002"
        repository.backend.put(name, seal_json(repository.keyring, ObjectType.CONFIG, name, newer))
    for said in (site.run_job(), site.offhost("--repo", "main", "points", "list")):
        assert said.code == 1
        error, hint = said.told_once()
        assert "newer offhost (holographic packs)" in error
        assert "update" in hint


@pytest.mark.parametrize(
    ("line", "place", "words"),
    [
        ("quiesc: { policy: off }", "jobs.d/extra.yaml:5:1: quiesc:", "unknown key"),
        ("repository: main", "jobs.d/extra.yaml:5:1: repository:", "a second time"),
        ('schedule: { cron: "61 25 * * *" }', "jobs.d/extra.yaml:5:19: schedule.cron:", "61"),
        ("kind: files", "jobs.d/extra.yaml:5:7: kind:", "not supported yet"),
        ("mode: [", "jobs.d/extra.yaml:", ""),
    ],
    ids=["unknown key", "duplicate key", "bad cron line", "not yet", "no YAML"],
)
def test_a_configuration_with_a_mistake_is_refused_whole_with_its_place(
    site: Site, line: str, place: str, words: str
) -> None:
    job = "job: extra\nvcenter: main\nselect: { include: [ { name: other } ] }\nrepository: main\n"
    (site.folder / "jobs.d" / "extra.yaml").write_text(f"{job}{line}\n")
    for command in (["jobs", "run", "nightly"], ["check"]):
        said = site.offhost(*command)
        assert said.code == 2
        (error,) = said.errors
        assert error.startswith(place)
        assert words in error
