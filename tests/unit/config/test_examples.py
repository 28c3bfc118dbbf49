"""The commented examples are right, and leave no key out."""

from pathlib import Path

import pytest

from offhost.config import load
from offhost.config.job import Job, Rule
from offhost.config.proxy import Proxy
from offhost.config.section import Section
from offhost.config.yaml import dotted, parse

EXAMPLES = Path(__file__).parents[3] / "config"
OF_FOLDERS = {
    "directory",
    *(f"directory.{key}" for key in ("path", "consistency", "shutdown_timeout", "force_off")),
}
"""In web01-folder.yaml: no job has everything."""


def test_the_examples_are_right() -> None:
    configuration = load(EXAMPLES / "proxy.yaml")
    assert [job.job for job in configuration.jobs] == ["by-hand", "hosts", "nightly-production", "web01-folder"]


@pytest.mark.parametrize(
    ("model", "file", "elsewhere"),
    [
        (Proxy, "proxy.yaml", {"vcenters.*.ca_file", "repositories.*.key_file", "repositories.*.encryption"}),
        (
            Job,
            "jobs.d/nightly-production.yaml",
            {f"select.exclude.{key}" for key in Rule.model_fields if key != "name"} | OF_FOLDERS,
        ),
    ],
)
def test_the_examples_show_every_key(model: type[Section], file: str, elsewhere: set[str]) -> None:
    document = parse((EXAMPLES / file).read_text(), file)
    named = [step for step in ("vcenters", "repositories") if step in model.model_fields]
    shown = {
        dotted(["*" if at == 1 and path[0] in named else step for at, step in enumerate(path) if isinstance(step, str)])
        for path in document.keys
    }
    assert keys(model) == (shown - {f"{name}.*" for name in named}) | elsewhere


def keys(model: type[Section], before: tuple[str, ...] = ()) -> set[str]:
    """Every key beneath a section, lists and names of sections written as in `shown`."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        found.add(dotted((*before, name)))
        section = section_in(field.annotation)
        if section is not None:
            named = ("*",) if name in ("vcenters", "repositories") else ()
            found |= keys(section, (*before, name, *named))
    return found


def section_in(annotation: object) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(section_in, getattr(annotation, "__args__", ()))), None)
