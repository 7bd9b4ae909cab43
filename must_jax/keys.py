"""The keys of every stage: for `--help`, and as docs/config.md: python -m must_jax.keys > docs/config.md

Both are read from the configs themselves: names, types, defaults, and what stands below each field.
"""

from __future__ import annotations

import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types
import pydantic
from pydantic.fields import FieldInfo

from must_jax.config import InPipeline
from must_jax.config.base import OptionsOf
from must_jax.labels.formats import FORMATS
from must_jax.labels.formats.base import Format
from must_jax.parsing import VALUES, abouts, schema
from must_jax.tasks import KIND, TASKS
from must_jax.tasks.base import Task

ANY_NAME, ANY_TASK, ANY_ENTRY = "NAME", "TASK", "0"  # in a key: the user's own name, a task's, an entry of a list
WIDTH = 80  # characters of a line
_ANY = {ANY_NAME, ANY_TASK}
_LARGE = 1000  # limits beyond it only guard against typing errors
_GIVEN = {"name", "classes"}  # of tasks: by the config's key, and with the labels
_MOST_HERE = 3  # values of one key, in configs that have it several times


@dataclass(frozen=True)
class Key:
    """A line of the list. `default` is in the words of the command line; "" if the key itself has no value.

    Attributes:
      of: the tasks or formats whose option it is; () for a key of all.
    """

    path: str
    kind: str
    default: str
    about: str
    of: tuple[str, ...] = ()


class Section(NamedTuple):
    """The keys of one stage, or of the stages of one kind in a pipeline: `names` are those stages'."""

    title: str
    keys: list[Key]
    names: tuple[str, ...] = ()


def keys_of(model: type[pydantic.BaseModel], prefix: str = "", *, options: bool = True) -> Iterator[Key]:
    """All keys below a config, in their order.

    Args:
      options: whether to list those of tasks and formats, too.
    """
    return _walk(model, prefix, options, {})


def _walk(
    model: type[pydantic.BaseModel], prefix: str, options: bool, seen: dict[type[pydantic.BaseModel], str]
) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        if name in ("stage", "of"):  # `of` is the config beside it
            continue
        path = prefix + name
        inner, below = _inner(field)
        if inner is None or below:
            yield _key(path, field)
        if inner is not None:
            there = f"{path}.{below}." if below else f"{path}."
            if inner in seen:
                kind = f"as {seen[inner]}KEY"
                yield Key(f"{there}KEY", kind, "", "" if below else _about(field))
            else:
                seen[inner] = there
                yield from _walk(inner, there, options, seen)
        for marked in field.metadata:
            if isinstance(marked, OptionsOf) and options:
                keyed = get_origin(get_args(field.annotation)[1]) is dict
                yield from options_of(marked.what, f"{path}.{ANY_TASK}." if keyed else f"{path}.")


def options_of(what: Literal["task", "format"], prefix: str = "") -> Iterator[Key]:
    """The options of all tasks, or of all formats of true labels; those that several have in common only once."""
    common: dict[Key, list[str]] = {}
    models: Mapping[str, type[pydantic.BaseModel]] = TASKS if what == "task" else FORMATS
    if what == "task":
        kinds = f"one of {', '.join(TASKS)}"
        yield Key(f"{prefix}{KIND}", kinds, "none", f"What kind of task it is; none = its name, {ANY_TASK}, says so.")
    for name, model in models.items():
        for option in model.model_fields.keys() - (_GIVEN if what == "task" else set()):
            common.setdefault(_key(prefix + option, model.model_fields[option]), []).append(name)
    bases: tuple[type[pydantic.BaseModel], ...] = (Task, Format)
    order = [f"{prefix}{option}" for model in (*bases, *models.values()) for option in model.model_fields]
    for key in sorted(common, key=lambda key: order.index(key.path)):
        of = tuple(common[key]) if len(common[key]) < len(models) else ()
        path = key.path.replace(ANY_TASK, of[0]) if what == "task" and len(of) == 1 else key.path
        yield replace(key, path=path, of=() if path != key.path else of)


def sections(values: Mapping[str, Any]) -> list[Section]:
    """The keys of the stage that these plain values of a config are for; of a pipeline also those of its stages."""
    prefixed = schema(values)
    main = Section(str(values.get("stage")), [key for prefix, model in prefixed for key in keys_of(model, prefix)])
    stages = values.get("stages")
    if values.get("stage") != "pipeline" or not isinstance(stages, Mapping):
        return [main]
    found = []
    for model in get_args(InPipeline):
        kind = model.model_fields["stage"].default
        names = tuple(n for n, s in stages.items() if isinstance(s, Mapping) and s.get("stage") == kind)
        if names:
            found.append(Section(kind, list(keys_of(model, f"stages.{ANY_NAME}.")), names))
    own = [key for key in main.keys if not key.path.startswith(f"stages.{ANY_NAME}")]
    return [main._replace(title=f"pipeline, which runs {', '.join(stages)}", keys=own), *found]


def text(values: Mapping[str, Any], width: int = WIDTH) -> str:
    """The list for `--help`: every key with its type, its default and, where the config has another value, that."""
    lines: list[str] = []
    for section in sections(values):
        title = f"Keys of stage {section.title}" + (f": {', '.join(section.names)}" if section.names else "")
        lines += textwrap.wrap(title, width, subsequent_indent="    ")
        for key in section.keys:
            here = _here(values, key, section.names)
            facts = [key.kind, _default(key.default), here, f"of {', '.join(key.of)}" if key.of else ""]
            line = f"  {key.path}  ({'; '.join(filter(None, facts))})"
            lines += textwrap.wrap(line, width, subsequent_indent="      ", break_on_hyphens=False)
            lines += textwrap.wrap(
                key.about.replace("`", ""), width, initial_indent="      ", subsequent_indent="      "
            )
        if not section.keys:
            lines.append("  none of its own; those of the config are not read")
        lines.append("")
    return "\n".join(lines).rstrip()


def markdown() -> str:
    """docs/config.md."""
    parts = [_HEAD.format(values=VALUES)]
    for name, about in abouts().items():
        prefix, model = schema({"stage": name})[0]
        keys = list(keys_of(model, prefix, options=False))
        parts += [
            f"## stage: {name}",
            about,
            _table(keys) if keys else "No keys: those of the run's config are not read.",
        ]
    parts += ["## Options of tasks", "`tasks.TASK.OPTION`, and `downstream.NAME.options.OPTION` in an evaluation."]
    parts.append(_table(options_of("task"), "tasks"))
    parts += ["## Options of formats", "`labels.TASK.options.OPTION` of the stage prepare, by `labels.TASK.format`."]
    parts.append(_table(options_of("format"), "formats"))
    return "\n\n".join(parts) + "\n"


_HEAD = """\
# Keys of the configs

<!-- Made by `python -m must_jax.keys > docs/config.md` from what stands below the fields of the configs. -->

Every value of a config can be overridden by its path: `--config.optimizer.learning_rate=0.05`.
`python -m must_jax.main --config=FILE --help` prints the keys of that config's stage, with the config's own values.

```
{values}```

`NAME` stands for a name of your own, `TASK` for a task, `0` for the number of an entry."""


def _table(keys: Iterator[Key] | Sequence[Key], of: str = "") -> str:
    columns = ["key", *([of] if of else []), "type", "default", "meaning"]
    rows = [columns, ["---"] * len(columns)]
    for key in keys:
        whose = [", ".join(key.of) or "all"] if of else []
        rows.append([f"`{key.path}`", *whose, key.kind, _code(key.default), key.about])
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _code(default: str) -> str:
    return f"`{default}`" if default and default != "required" else default


def _default(default: str) -> str:
    return default if default in ("", "required") else f"default {default}"


def _key(path: str, field: FieldInfo) -> Key:
    default = "required" if field.is_required() else written(field.get_default(call_default_factory=True))
    return Key(path, _kind(field.annotation, field.metadata), default, _about(field))


def _about(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def written(value: Any) -> str:
    """A value as it would be written on the command line."""
    match value:
        case bool():
            return str(value).lower()
        case None | "" | () | [] | pydantic.BaseModel():
            return "none"
        case list() | tuple():
            plain = not any(isinstance(each, Mapping | list | tuple) for each in value)
            line = ",".join(written(each) if each != "" else '""' for each in value) if plain else ""
            return line if 0 < len(line) <= WIDTH else f"{len(value)} {'entry' if len(value) == 1 else 'entries'}"
        case Mapping():
            return ", ".join(map(str, value)) or "none"
        case float():
            return f"{value:g}"
    return str(value)


def _kind(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """A type, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return _kind(arguments[0], annotation.__metadata__)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys("none" if each is type(None) else _kind(each) for each in arguments))
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin is tuple:
        return "list"
    if annotation is bool:
        return "true or false"
    if annotation in (int, float):
        return f"{'integer' if annotation is int else 'number'}{_limits(metadata)}"
    return "text" if annotation is str else "mapping"


def _limits(metadata: Sequence[Any]) -> str:
    low = next((each.ge for each in metadata if isinstance(each, annotated_types.Ge)), None)
    high = next((each.le for each in metadata if isinstance(each, annotated_types.Le)), None)
    return f" {low:g} to {high:g}" if low is not None and high is not None and float(str(high)) <= _LARGE else ""


def _inner(field: FieldInfo) -> tuple[type[pydantic.BaseModel] | None, str]:
    """The config that a key holds, and what leads to it: an entry of a list, a name, or nothing."""
    annotation = field.annotation
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next((each for each in get_args(annotation) if each is not type(None)), None)
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return annotation, ""
    arguments = get_args(annotation)
    if get_origin(annotation) not in (tuple, dict):
        return None, ""
    inner, below = (arguments[0], ANY_ENTRY) if get_origin(annotation) is tuple else (arguments[1], ANY_NAME)
    if not (isinstance(inner, type) and issubclass(inner, pydantic.BaseModel)):
        return None, ""
    return inner, ANY_TASK if below == ANY_NAME and _about(field).startswith("Task ->") else below


def _here(values: Mapping[str, Any], key: Key, names: Sequence[str]) -> str:
    """The config's own values of a key, where they are not the default."""
    found = [written(value) for value in _values(values, key.path.split("."), names)]
    others = list(dict.fromkeys(value for value in found if value != key.default))
    if not others:
        return ""
    return f"here {' and '.join(others)}" if len(others) <= _MOST_HERE else f"here {len(others)} different values"


def _values(node: Any, parts: Sequence[str], names: Sequence[str] = ()) -> Iterator[Any]:
    if not parts:
        yield node
    elif isinstance(node, Mapping):
        entries = [parts[0]] if parts[0] not in _ANY else [*names] or [*node]
        for name in entries:
            if name in node:
                yield from _values(node[name], parts[1:], () if parts[0] in _ANY else names)
    elif isinstance(node, list | tuple) and parts[0] == ANY_ENTRY:
        for each in node:
            yield from _values(each, parts[1:])


if __name__ == "__main__":
    print(markdown(), end="")
