"""Cultural maps: the built-in ones, a user's own, and errors that name file, line and field."""

from __future__ import annotations

import pycountry
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cultural_palette.countries import all_countries
from cultural_palette.cultural_map import Community, CulturalMap, builtin_maps, load_map
from cultural_palette.errors import MapError

GOOD = """\
name: North and South
source: made up
communities:
  north:
    name: The North
    adjective: Northern
    colour: "#0072B2"
    countries: [NO, SWE, "S. Korea"]
  south:
    name: The South
    colour: "#E69F00"
    countries:
      - New Zealand
      - CHL
"""


def community(key="north", colour="#000000", countries=("NOR",)):
    return Community(key, key.title(), colour, countries)


@pytest.fixture
def own(tmp_path):
    def write(text: str):
        file = tmp_path / "own.yaml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


def test_built_in():
    assert builtin_maps() == ("continents", "inglehart_welzel")


@pytest.mark.parametrize("name", ["continents", "inglehart_welzel"])
def test_built_in_maps_are_sound(name):
    world = load_map(name)
    assert world.key == name
    assert world.source
    known = {c.iso3 for c in all_countries()}
    codes = [code for c in world.communities for code in c.countries]
    assert len(codes) == len(set(codes))
    assert set(codes) <= known
    assert len({c.colour for c in world.communities}) == len(world.communities)
    assert len({c.name for c in world.communities}) == len(world.communities)
    for c in world.communities:
        assert all(world.community_of(code) is c for code in c.countries)
        assert world.community(c.key) is c


def test_continents():
    world = load_map("continents")
    assert [c.key for c in world.communities] == ["africa", "america", "asia", "europe", "oceania"]
    placed = {code for c in world.communities for code in c.countries}
    # Antarctica has no people of its own; Kosovo and Northern Ireland have no ISO code.
    assert placed - {"ATA"} == {c.alpha_3 for c in pycountry.countries} - {"ATA"} | {"XKX", "NIR"}
    homes = {"RUS": "asia", "TUR": "asia", "CYP": "asia", "EGY": "africa", "MEX": "america", "GRL": "america",
             "NZL": "oceania", "GBR": "europe", "NIR": "europe", "XKX": "europe", "TWN": "asia"}  # fmt: skip
    assert {code: world.community_of(code).key for code in homes} == homes
    assert world.community("oceania").adjective == "Oceanian"


def test_the_papers_countries_stand_where_the_paper_has_them():
    groups = ("USA CAN BOL BRA", "GBR NLD DEU UKR", "CHN RUS IND THA", "KEN NGA ETH ZWE", "AUS NZL")
    keys = ("america", "europe", "asia", "africa", "oceania")
    world = load_map("continents")
    for key, group in zip(keys, groups, strict=True):
        assert {world.community_of(code).key for code in group.split()} == {key}


def test_inglehart_welzel():
    world = load_map("inglehart_welzel")
    assert len(world.communities) == 8
    assert "World Values Survey" in world.source
    homes = {
        "SWE": "protestant_europe", "ITA": "catholic_europe", "GRC": "orthodox_europe", "JPN": "confucian",
        "USA": "english_speaking", "NIR": "english_speaking", "EGY": "african_islamic",
        "IND": "west_south_asia", "PHL": "latin_america", "EST": "protestant_europe",
        "VNM": "west_south_asia",
    }  # fmt: skip
    assert {code: world.community_of(code).key for code in homes} == homes
    assert world.community_of("FJI") is None  # never surveyed


def brightness(colour: str) -> float:
    """Relative luminance, WCAG 2. 0..1."""
    shares = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("name", ["continents", "inglehart_welzel"])
def test_colours_show_on_white_and_on_black(name):
    for c in load_map(name).communities:
        assert 1.05 / (brightness(c.colour) + 0.05) > 2, c
        assert (brightness(c.colour) + 0.05) / 0.05 > 3.5, c


def test_a_users_map(own):
    world = load_map(own(GOOD))
    assert (world.key, world.name, world.source) == ("own", "North and South", "made up")
    north, south = world.communities
    assert north.countries == ("NOR", "SWE", "KOR")  # a bare NO is Norway here, not false
    assert (north.adjective, south.adjective) == ("Northern", "The South")
    assert world.community_of("CHL") is south
    assert world.community_of("KEN") is None
    assert load_map(str(own(GOOD))) == world


def test_a_changed_file_is_read_again(own):
    load_map(own(GOOD))
    assert load_map(own(GOOD.replace("The North", "Upside"))).communities[0].name == "Upside"


@pytest.mark.parametrize(
    ("old", "new", "line", "why"),
    [
        ("CHL", "SWE", 14, "communities.south.countries: SWE stands in communities.north already"),
        ("CHL", "Swede", 14, r"communities.south.countries: Unknown country 'Swede'. Did you mean SWE"),
        ("CHL", "[CHL]", 14, "communities.south.countries: expected a text"),
        (
            "#E69F00",
            "orange",
            9,
            "communities.south: community 'south': colour 'orange' is not of the form #rrggbb",
        ),
        ("  north:", "  North Pole:", 4, "community key 'North Pole': use a-z, 0-9 and underscores"),
        ("  south:", "  north:", 9, "communities: 'north' stands twice"),
        (
            "adjective",
            "adjectiv",
            6,
            "communities.north: unknown field 'adjectiv'; fields are adjective, colour",
        ),
        ('    colour: "#0072B2"\n', "", 5, "communities.north: missing colour"),
        ("name: North and South\n", "", 1, "the map: missing name"),
        ("name: North and South", "name: [a]", 1, "name: expected a text"),
        ('[NO, SWE, "S. Korea"]', "NO", 8, "communities.north.countries: expected a list of countries"),
        ('[NO, SWE, "S. Korea"]', "[]", 4, "community 'north' has no countries"),
        ("  north:", "  ? [north]\n  :", 4, "expected a name before the colon"),
        ('[NO, SWE, "S. Korea"]', "[NO, SWE", 9, "not YAML"),
    ],
)
def test_errors_name_file_line_and_field(own, old, new, line, why):
    assert old in GOOD
    file = own(GOOD.replace(old, new, 1))
    with pytest.raises(MapError, match=why) as caught:
        load_map(file)
    assert str(caught.value).startswith(f"{file}:{line}: ")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words", "name: x\ncommunities: 3\n"])
def test_what_is_no_map(own, text):
    with pytest.raises(MapError, match=r"own\.yaml:\d+: .*expected fields"):
        load_map(own(text))


def test_one_community_is_no_map(own):
    text = GOOD[: GOOD.index("  south:")]
    with pytest.raises(MapError, match=r"own\.yaml:4: communities: map 'own' has 1 communities; at least 2"):
        load_map(own(text))


def test_files_that_can_not_be_read(tmp_path):
    with pytest.raises(
        MapError, match=r"No map 'continent'\. Built in: continents, inglehart_welzel; or give the path"
    ):
        load_map("continent")
    with pytest.raises(MapError, match=r"No file .*gone\.yaml"):
        load_map(tmp_path / "gone.yaml")
    with pytest.raises(MapError, match="can not be read"):
        load_map(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: Süden\n".encode("latin-1"))
    with pytest.raises(MapError, match="can not be read"):
        load_map(tmp_path / "latin.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\x00\x01\x02")
    with pytest.raises(MapError, match="not YAML"):
        load_map(tmp_path / "binary.yaml")


def test_made_by_hand_it_is_checked_too():
    with pytest.raises(MapError, match="at least 2"):
        CulturalMap("one", "One", (community(),))
    with pytest.raises(MapError, match="names a community twice: north, north"):
        CulturalMap("two", "Two", (community(), community(countries=("SWE",))))
    with pytest.raises(MapError, match="NOR stands in north and in south"):
        CulturalMap("two", "Two", (community(), community("south")))
    with pytest.raises(MapError, match="'Norway' is no ISO 3166-1 alpha-3 code"):
        community(countries=("Norway",))
    world = CulturalMap("two", "Two", (community(), community("south", countries=("CHL",))))
    with pytest.raises(MapError, match="no community 'east'; it has north, south"):
        world.community("east")
    assert hash(world) == hash(CulturalMap("two", "Two", world.communities))


@given(st.text(max_size=200))
def test_any_text_is_a_map_or_refused_by_name(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("map") / "any.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(MapError, match=r"any\.yaml"):
        load_map(file)
