"""Cultural maps: how the world is divided into communities. A map is data: nothing assumes continents."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cultural_palette.countries import find_country
from cultural_palette.errors import MapError, UnknownCountry
from cultural_palette.provenance import sha256
from cultural_palette.safe_text import hidden_in

FOLDER = Path(__file__).parent / "maps"
KEY = re.compile(r"[a-z][a-z0-9_]*")
COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
RESERVED = ("base", "joint", "meta")
"""Names of parts and of the agent that all communities' data make: no community is called so."""
ISO3 = re.compile(r"[A-Z]{3}")


@dataclass(frozen=True)
class Community:
    """One part of the world with an agent of its own. `colour`: "#rrggbb"; `countries`: ISO3 codes."""

    key: str
    name: str
    colour: str
    countries: tuple[str, ...]
    adjective: str = ""

    def __post_init__(self) -> None:
        if not KEY.fullmatch(self.key):
            raise MapError(f"community key {self.key!r}: use a-z, 0-9 and underscores, a letter first")
        if self.key in RESERVED:
            raise MapError(
                f"a community can not be called {self.key!r}: {', '.join(RESERVED)} are names of other parts"
            )
        for text in (self.name, self.adjective):
            refuse_hidden(text, f"community {self.key!r}")
        if not COLOUR.fullmatch(self.colour):
            raise MapError(f"community {self.key!r}: colour {self.colour!r} is not of the form #rrggbb")
        if not self.countries:
            raise MapError(f"community {self.key!r} has no countries")
        if wrong := [code for code in self.countries if not ISO3.fullmatch(code)]:
            raise MapError(f"community {self.key!r}: {wrong[0]!r} is no ISO 3166-1 alpha-3 code, like KEN")
        if not self.adjective:
            object.__setattr__(self, "adjective", self.name)


@dataclass(frozen=True)
class CulturalMap:
    """Communities in their order; every country in one of them at most."""

    key: str
    name: str
    communities: tuple[Community, ...]
    source: str = ""
    _home: dict[str, Community] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for text in (self.name, self.source):
            refuse_hidden(text, f"map {self.key!r}")
        if len(self.communities) < 2:
            raise MapError(f"map {self.key!r} has {len(self.communities)} communities; at least 2 are needed")
        if len({c.key for c in self.communities}) < len(self.communities):
            raise MapError(f"map {self.key!r} names a community twice: {self._keys}")
        for community in self.communities:
            for iso3 in community.countries:
                if iso3 in self._home:
                    homes = f"{self._home[iso3].key} and in {community.key}"
                    raise MapError(f"{iso3} stands in {homes}; a country has one home")
                self._home[iso3] = community

    def community_of(self, iso3: str) -> Community | None:
        """The country's community; None when the map has no place for it."""
        return self._home.get(iso3)

    def community(self, key: str) -> Community:
        """A community by its key."""
        for community in self.communities:
            if community.key == key:
                return community
        raise MapError(f"map {self.key!r} has no community {key!r}; it has {self._keys}")

    @property
    def sha256(self) -> str:
        """64 hex digits of all that shapes a prompt or a home: the communities, in their order."""
        rows = [[c.key, c.name, c.adjective, list(c.countries)] for c in self.communities]
        return sha256(json.dumps(rows))

    @property
    def _keys(self) -> str:
        return ", ".join(c.key for c in self.communities)


def refuse_hidden(text: str, what: str) -> None:
    """Raise MapError for a text that can not be shown as it is."""
    if hidden := hidden_in(text):
        raise MapError(f"{what}: {text!r} holds the character {hidden}, which nobody sees. Take it out.")


def builtin_maps() -> tuple[str, ...]:
    """Names of the maps that come with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load_map(name_or_path: str | Path) -> CulturalMap:
    """A built-in map by name, or a YAML file by path (one with a slash or a `.yaml` / `.yml` ending).

    Raises MapError with file, line and field.
    """
    text = str(name_or_path)
    if text in builtin_maps():
        return _builtin(text)
    if "\0" in text:
        raise MapError(f"No map {text!r}: a path holds no null.")
    path = Path(text)
    try:
        named = path.suffix in (".yaml", ".yml") or path.exists()
    except OSError:  # a name that no disk takes
        named = False
    if not named:
        known = ", ".join(builtin_maps())
        raise MapError(f"No map {text!r}. Built in: {known}; or give the path of a YAML file.")
    return _load(path)


@functools.cache
def _builtin(name: str) -> CulturalMap:
    return _load(FOLDER / f"{name}.yaml")


def _load(path: Path) -> CulturalMap:
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MapError(f"No file {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MapError(f"{path} can not be read: {error}") from None
    except RecursionError:
        raise MapError(f"{path} can not be read: nested without an end") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise MapError(f"{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    return _Reader(path).read(root)


class _Reader:
    """Walks YAML nodes, so that every complaint has its line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.homes: dict[str, str] = {}

    def fail(self, node: Any, message: str) -> MapError:
        line = node.start_mark.line + 1 if node is not None else 1
        return MapError(f"{self.path}:{line}: {message}")

    def read(self, root: Any) -> CulturalMap:
        top = self.fields(root, "the map", {"name", "source", "communities"}, {"name", "communities"})
        entries = self.pairs(top["communities"], "communities")
        communities = tuple(self.community(key, node) for key, node in entries)
        name = self.string(top["name"], "name")
        source = self.string(top["source"], "source") if "source" in top else ""
        try:
            return CulturalMap(self.path.stem, name, communities, source)
        except MapError as error:
            raise self.fail(top["communities"], f"communities: {error}") from None

    def community(self, key: Any, node: Any) -> Community:
        where = f"communities.{key.value}"
        needed = {"name", "colour", "countries"}
        rows = self.fields(node, where, needed | {"adjective"}, needed)
        if not isinstance(rows["countries"], yaml.SequenceNode):
            raise self.fail(rows["countries"], f"{where}.countries: expected a list of countries")
        countries = tuple(self.country(item, where) for item in rows["countries"].value)
        adjective = self.string(rows["adjective"], f"{where}.adjective") if "adjective" in rows else ""
        name = self.string(rows["name"], f"{where}.name")
        colour = self.string(rows["colour"], f"{where}.colour")
        try:
            return Community(key.value, name, colour, countries, adjective)
        except MapError as error:
            raise self.fail(key, f"{where}: {error}") from None

    def country(self, item: Any, where: str) -> str:
        name = self.string(item, f"{where}.countries")
        try:
            iso3 = find_country(name).iso3
        except UnknownCountry as error:
            raise self.fail(item, f"{where}.countries: {error}") from None
        if iso3 in self.homes:
            there = f"{iso3} stands in {self.homes[iso3]} already"
            raise self.fail(item, f"{where}.countries: {there}; a country has one home")
        self.homes[iso3] = where
        return iso3

    def fields(self, node: Any, where: str, allowed: set[str], needed: set[str]) -> dict[str, Any]:
        rows = {key.value: (key, value) for key, value in self.pairs(node, where)}
        for name, (key, _) in rows.items():
            if name not in allowed:
                known = ", ".join(sorted(allowed))
                raise self.fail(key, f"{where}: unknown field {name!r}; fields are {known}")
        if missing := needed - set(rows):
            raise self.fail(node, f"{where}: missing {', '.join(sorted(missing))}")
        return {name: value for name, (_, value) in rows.items()}

    def pairs(self, node: Any, where: str) -> list[tuple[Any, Any]]:
        if not isinstance(node, yaml.MappingNode):
            raise self.fail(node, f"{where}: expected fields, one `key: value` a line")
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self.fail(key, f"{where}: expected a name before the colon")
            if key.value in seen:
                raise self.fail(key, f"{where}: {key.value!r} stands twice")
            seen.add(key.value)
        return list(node.value)

    def string(self, node: Any, where: str) -> str:
        if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
            raise self.fail(node, f"{where}: expected a text")
        return str(node.value).strip()
