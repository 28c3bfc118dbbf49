"""Reading the configuration's files: all of them right, or all their mistakes at once.

Owns: which files are read, and what must agree between them. Does not own: keys (proxy, job), words (mistakes).
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from offhost.config.job import Job
from offhost.config.mistakes import mistakes
from offhost.config.proxy import Datastore, Limits, Listen, Proxy, Repository, VCenter
from offhost.config.section import Section
from offhost.config.yaml import Document, parse
from offhost.errors import ConfigError, ConfigErrors

MAX_FILE_BYTES = 1024 * 1024

S = TypeVar("S", bound=Section)


@dataclass(frozen=True, slots=True)
class Configuration:
    """proxy.yaml and its jobs, read and found right."""

    file: Path
    state: Path
    listen: Listen
    vcenters: Mapping[str, VCenter]
    datastores: tuple[Datastore, ...]
    repositories: Mapping[str, Repository]
    limits: Limits
    opt_out_tag: str | None
    jobs: tuple[Job, ...]


def load(file: Path) -> Configuration:
    """Read `file` and `jobs.d/*.yaml` beside it. Secrets are not followed.

    Raises: ConfigErrors with every mistake of every file, named by its path relative to `file`'s directory.
    """
    found: list[ConfigError] = []
    proxy_document, proxy = _read(file, file.name, Proxy, found)
    jobs = [_read(path, f"jobs.d/{path.name}", Job, found) for path in _job_files(file.parent / "jobs.d", found)]
    if proxy is not None:
        found.extend(_disagreements(proxy_document, proxy))
        for document, job in jobs:
            found.extend(_unknown_references(document, job, proxy) if job else ())
    found.extend(_double_names(jobs))
    if found:
        raise ConfigErrors(found)
    assert proxy is not None
    return Configuration(
        file=file,
        state=proxy.state,
        listen=proxy.listen,
        vcenters=proxy.vcenters,
        datastores=proxy.datastores,
        repositories=proxy.repositories,
        limits=proxy.limits,
        opt_out_tag=proxy.opt_out_tag,
        jobs=tuple(job for _, job in jobs if job is not None),
    )


def _job_files(directory: Path, found: list[ConfigError]) -> list[Path]:
    """The job files, in the order of their names. A directory that is not there has none; hidden files are left out."""
    try:
        paths = sorted(directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        found.append(ConfigError(f"{directory}: {error.strerror}", hint="the proxy's user must be able to read it"))
        return []
    return [path for path in paths if path.suffix in (".yaml", ".yml") and not path.name.startswith(".")]


def _read(path: Path, name: str, model: type[S], found: list[ConfigError]) -> tuple[Document, S | None]:
    """One file as its model; None, and its mistakes in `found`, when it is wrong."""
    try:
        document = parse(_text(path, name), name)
    except ConfigError as error:
        found.append(error)
        return Document(name), None
    section = None
    if document.data is not None or not document.mistakes:
        section = _validated(document, model)
    found.extend(sorted(document.mistakes, key=lambda mistake: (mistake.line or 0, mistake.column or 0)))
    return document, None if document.mistakes else section


def _validated(document: Document, model: type[S]) -> S | None:
    try:
        return model.model_validate({} if document.data is None else document.data)
    except ValidationError as refused:
        document.mistakes.extend(mistakes(document, model, refused))
        return None


def _text(path: Path, name: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such file", hint="-c FILE says where proxy.yaml is") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="the proxy's user must be able to read it") from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError("larger than 1 MiB", file=name, line=1, column=1, hint="is this the right file?")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError("not UTF-8", file=name, line=line, column=1, hint="save the file as UTF-8") from error


def _disagreements(document: Document, proxy: Proxy) -> Iterator[ConfigError]:
    """What proxy.yaml says of itself that cannot be."""
    named: set[tuple[str, str]] = set()
    for position, datastore in enumerate(proxy.datastores):
        path = ("datastores", position)
        yield from _reference(document, (*path, "vcenter"), datastore.vcenter, known=proxy.vcenters, section="vcenters")
        if (datastore.vcenter, datastore.name) in named:
            yield document.mistake((*path, "name"), "this datastore stands here twice", hint="one mount serves it")
        named.add((datastore.vcenter, datastore.name))


def _unknown_references(document: Document, job: Job, proxy: Proxy) -> Iterator[ConfigError]:
    if job.vcenter is not None:
        yield from _reference(document, ("vcenter",), job.vcenter, known=proxy.vcenters, section="vcenters")
    yield from _reference(document, ("repository",), job.repository, known=proxy.repositories, section="repositories")
    for at, copy in enumerate(job.copy_to):
        path = ("copy_to", at, "repository")
        yield from _reference(document, path, copy.repository, known=proxy.repositories, section="repositories")


def _reference(
    document: Document, path: tuple[str | int, ...], name: str, *, known: Mapping[str, object], section: str
) -> Iterator[ConfigError]:
    """A mistake where `name` is not among the names of one of proxy.yaml's sections."""
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    names = f"did you mean `{near[0]}`?" if near else f"there: {', '.join(sorted(known)) or 'none yet'}"
    yield document.mistake(path, f"`{name}` is not one of proxy.yaml's {section}", hint=names)


def _double_names(jobs: Iterable[tuple[Document, Job | None]]) -> Iterator[ConfigError]:
    first: dict[str, str] = {}
    for document, job in jobs:
        if job is None:
            continue
        if job.job in first:
            yield document.mistake(
                ("job",), f"`{job.job}` is the name of the job in {first[job.job]}, too", hint="give it another name"
            )
        first.setdefault(job.job, document.file)
