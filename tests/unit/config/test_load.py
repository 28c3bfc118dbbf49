"""proxy.yaml and jobs.d are read whole, or refused whole with every mistake at its place."""

from collections.abc import Callable

import pytest

from offhost.config import Secret, load
from support.config_files import JOB, PROXY, Files

Refusal = Callable[[], list[tuple[str, str | None]]]


def test_right_files_are_read_with_the_documented_defaults(files: Files) -> None:
    configuration = load(files.file)
    (job,) = configuration.jobs
    assert (configuration.listen.address, configuration.listen.port) == ("127.0.0.1", 8006)
    assert configuration.limits.min_free == 0.1
    assert configuration.repositories["main"].compression == "lz4"
    assert configuration.repositories["main"].write_check == "full"
    assert configuration.vcenters["main"].password == Secret("credential", "vc-main")
    assert job.transports == ("datastore", "https")
    assert (job.mode, job.quiesce.policy, job.quiesce.timeout) == ("incremental", "try", 15)


def test_every_mistake_of_every_file_is_told_at_once(files: Files, refusal: Refusal) -> None:
    files.proxy(PROXY.replace("state: /var/lib/offhost", "state: var/lib"))
    files.job("nightly.yaml", JOB.replace("job: nightly", "job: [1]").replace("mon-fri", "mon-fry"))
    assert [place.split(": ")[:2] for place, _ in refusal()] == [
        ["proxy.yaml:1:8", "state"],
        ["jobs.d/nightly.yaml:1:6", "job"],
        ["jobs.d/nightly.yaml:2:19", "schedule.cron"],
    ]


def test_an_unknown_key_is_told_with_what_was_probably_meant(files: Files, refusal: Refusal) -> None:
    files.job("nightly.yaml", JOB.replace("repository: main", "repository: main\nqiesce: { policy: try }"))
    assert refusal() == [("jobs.d/nightly.yaml:7:1: qiesce: unknown key", "did you mean `quiesce`?")]


def test_an_unknown_key_in_a_named_section_is_found_where_it_stands(files: Files, refusal: Refusal) -> None:
    files.proxy(PROXY.replace("    host:", "    hots: x\n    host:"))
    assert refusal() == [("proxy.yaml:4:5: vcenters.main.hots: unknown key", "did you mean `host`?")]


def test_a_key_that_stands_twice_is_refused(files: Files, refusal: Refusal) -> None:
    files.job("nightly.yaml", JOB + "repository: other\n")
    ((message, _),) = refusal()
    assert message == "jobs.d/nightly.yaml:7:1: repository: the key stands here a second time, first on line 6"


@pytest.mark.parametrize("line", ["full: { every: 30d }", "audit: { every: 30d }"])
def test_a_job_that_always_reads_everything_has_no_use_for_full_and_audit(
    files: Files, refusal: Refusal, line: str
) -> None:
    files.job("nightly.yaml", JOB + f"mode: full\n{line}\n")
    ((message, hint),) = refusal()
    assert "mode: full always reads everything" in message
    assert hint == "take `full` and `audit` out, or choose another mode"


@pytest.mark.parametrize(
    "line",
    ["notify: { on: [failed] }", "kind: files", "transports: [nbd]"],
)
def test_what_offhost_is_going_to_have_is_refused_as_not_yet_supported(
    files: Files, refusal: Refusal, line: str
) -> None:
    files.job("nightly.yaml", JOB + line + "\n")
    ((message, hint),) = refusal()
    assert message.startswith("jobs.d/nightly.yaml:7:")
    assert "not supported yet" in message
    assert hint is not None


@pytest.mark.parametrize(
    ("rule", "mistake"),
    [
        ('tag: "nightly"', "select.include[0].tag: not a tag with its category"),
        ('tag: "backup:"', "select.include[0].tag: not a tag with its category"),
        ('attribute: "owner"', "select.include[0].attribute: not a custom attribute with its value"),
        ("folder: vm/Production", "select.include[0].folder: not an inventory path"),
        ("", "select.include[0]: a rule says what it names"),
    ],
)
def test_a_rule_that_names_nothing_is_refused_once_at_its_place(
    files: Files, refusal: Refusal, rule: str, mistake: str
) -> None:
    files.job("nightly.yaml", JOB.replace('name: "db-*"', rule))
    ((message, hint),) = refusal()
    assert mistake in message
    assert hint


def test_a_rule_may_name_several_things_which_must_all_fit(files: Files) -> None:
    files.job("nightly.yaml", JOB.replace('name: "db-*"', 'name: "db-*", cluster: edge, tag: "backup:*"'))
    select = load(files.file).jobs[0].select
    assert select
    (rule,) = select.include
    assert (rule.name, rule.cluster, rule.tag, rule.folder) == ("db-*", "edge", "backup:*", None)


def test_vms_opt_out_by_a_tag_of_choice_or_by_none(files: Files) -> None:
    assert load(files.file).opt_out_tag == "offhost:exclude"
    files.proxy(PROXY + 'opt_out_tag: "ops:no-backup"\n')
    assert load(files.file).opt_out_tag == "ops:no-backup"
    files.proxy(PROXY + "opt_out_tag: none\n")
    assert load(files.file).opt_out_tag is None


def test_a_bad_cron_line_is_refused_at_its_place_with_an_example(files: Files, refusal: Refusal) -> None:
    files.job("nightly.yaml", JOB.replace("0 22 * * mon-fri", "0 25 * * *"))
    ((message, hint),) = refusal()
    assert message == ("jobs.d/nightly.yaml:2:19: schedule.cron: not a cron line: hour: `25` does not lie within 0-23")
    assert hint is not None
    assert "0 22 * * mon-fri" in hint


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("{}", "7:12: retention: no rule says what to keep"),
        ("{ keep_last: 0 }", "7:12: retention: no rule says what to keep"),
        ("{ daily: -1 }", "7:21: retention.daily: should be greater than or equal to 0"),
        ("{ daily: yes }", "7:21: retention.daily: should be a valid integer"),
        ("{ within: 7 }", "7:22: retention.within: not a length of time"),
        ("{ after_vm_deleted: 3 months }", "7:32: retention.after_vm_deleted: not a length of time"),
        ("{ dayly: 7 }", "7:14: retention.dayly: unknown key"),
    ],
)
def test_a_retention_that_makes_no_sense_is_refused(files: Files, refusal: Refusal, written: str, says: str) -> None:
    files.job("nightly.yaml", f"{JOB}retention: {written}\n")
    ((message, hint),) = refusal()
    assert message == f"jobs.d/nightly.yaml:{says}"
    assert hint


def test_an_unknown_time_zone_is_refused(files: Files, refusal: Refusal) -> None:
    files.job("nightly.yaml", JOB.replace("Europe/Zurich", "Europe/../Zurich"))
    ((message, _),) = refusal()
    assert "no time zone" in message


def test_a_password_in_the_file_is_refused_and_not_repeated(files: Files, refusal: Refusal) -> None:
    files.proxy(PROXY.replace('"{credential vc-main}"', "hunter2"))
    ((message, hint),) = refusal()
    assert message == "proxy.yaml:6:15: vcenters.main.password: a secret is a reference, never a value"
    assert "hunter2" not in message + str(hint)


def test_a_vcenter_whose_certificate_nothing_vouches_for_is_refused(files: Files, refusal: Refusal) -> None:
    files.proxy(PROXY.replace("    ca_file: /etc/offhost/vc.pem\n", ""))
    ((message, _),) = refusal()
    assert message == "proxy.yaml:4:5: vcenters.main: exactly one of thumbprint and ca_file is needed"


@pytest.mark.parametrize("thumbprint", ["AB:CD", "AB:" * 19 + "AB", "", "zz" * 32])
def test_only_a_sha256_thumbprint_pins_a_certificate(files: Files, refusal: Refusal, thumbprint: str) -> None:
    files.proxy(PROXY.replace("ca_file: /etc/offhost/vc.pem", f'thumbprint: "{thumbprint}"'))
    ((message, hint),) = refusal()
    assert message == "proxy.yaml:7:17: vcenters.main.thumbprint: not the SHA-256 thumbprint of a certificate"
    assert "openssl" in str(hint)


def test_a_job_that_names_a_repository_which_is_not_there_is_refused(files: Files, refusal: Refusal) -> None:
    files.job("nightly.yaml", JOB.replace("repository: main", "repository: mian"))
    assert refusal() == [
        (
            "jobs.d/nightly.yaml:6:13: repository: `mian` is not one of proxy.yaml's repositories",
            "did you mean `main`?",
        )
    ]


def test_two_jobs_of_one_name_are_refused(files: Files, refusal: Refusal) -> None:
    files.job("other.yml", JOB)
    ((message, _),) = refusal()
    assert message == "jobs.d/other.yml:1:6: job: `nightly` is the name of the job in jobs.d/nightly.yaml, too"


def test_listening_beyond_this_machine_is_refused(files: Files, refusal: Refusal) -> None:
    files.proxy(PROXY + "listen: { address: 0.0.0.0 }\n")
    ((message, _),) = refusal()
    assert message.startswith("proxy.yaml:12:20: listen.address: only loopback is supported")


def test_a_file_that_is_not_there_is_named_in_full(files: Files, refusal: Refusal) -> None:
    files.file.unlink()
    ((message, _),) = refusal()
    assert message == f"{files.file}: there is no such file"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"#" * (1024 * 1024 + 1), b"a: [", b"- 1", b"", b"a: &a [*a]", b"\0"])
def test_what_is_no_configuration_at_all_is_refused_in_words(files: Files, refusal: Refusal, content: bytes) -> None:
    (files.file.parent / "jobs.d" / "nightly.yaml").write_bytes(content)
    assert all(message.startswith("jobs.d/nightly.yaml:") for message, _ in refusal())


def test_aliases_that_multiply_are_cut_off(files: Files, refusal: Refusal) -> None:
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    files.job("nightly.yaml", "\n".join(bomb))
    assert any("too large" in message for message, _ in refusal())


def test_a_jobs_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(files: Files, refusal: Refusal) -> None:
    folder = files.file.parent / "jobs.d"
    (folder / "nightly.yaml").unlink()
    folder.rmdir()
    assert load(files.file).jobs == ()
    folder.touch()
    ((message, _),) = refusal()
    assert message == f"{folder}: Not a directory"


def test_only_yaml_files_are_jobs(files: Files) -> None:
    for name in (".nightly.yaml.swp", ".hidden.yaml", "nightly.yaml.bak", "README"):
        files.job(name, "not: a job")
    assert [job.job for job in load(files.file).jobs] == ["nightly"]


def test_copies_go_to_other_repositories_that_exist(files: Files, refusal: Refusal) -> None:
    files.job("nightly.yaml", JOB + "copy_to: [ { repository: offsite, within: 24h } ]\n")
    (mistake,) = refusal()
    assert mistake[0].endswith("`offsite` is not one of proxy.yaml's repositories")
    files.job("nightly.yaml", JOB + "copy_to: [ { repository: main } ]\n")
    (mistake,) = refusal()
    assert "`copy_to` names the repository that the job backs up into" in mistake[0]


@pytest.mark.parametrize(
    "opened",
    [
        "",
        ', passphrase: "{env A}", key_file: "{file /k}"',
        ', passphrase: "{env A}", encryption: none',
        ', key_file: "{file /k}", encryption: none',
    ],
)
def test_a_repository_has_exactly_one_way_to_open_it(files: Files, refusal: Refusal, opened: str) -> None:
    files.proxy(PROXY.replace(', passphrase: "{file /etc/offhost/passphrase}"', opened))
    ((message, hint),) = refusal()
    assert "exactly one of passphrase, key_file and encryption is needed" in message
    assert hint
    assert "encryption: none only for one that was made so" in hint


@pytest.mark.parametrize("opened", ["key_file: /etc/offhost/key", "encryption: aes", "encryption: false"])
def test_how_a_repository_is_opened_is_a_reference_or_none(files: Files, refusal: Refusal, opened: str) -> None:
    files.proxy(PROXY.replace('passphrase: "{file /etc/offhost/passphrase}"', opened))
    ((message, _),) = refusal()
    assert message.startswith("proxy.yaml:")
