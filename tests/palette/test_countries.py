"""Countries: codes, names, survey spellings, and errors that suggest."""

from __future__ import annotations

import re

import pycountry
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cultural_palette.countries import ALIASES, Country, all_countries, find_country, sample_of
from cultural_palette.errors import UnknownCountry

# Labels of Pew's Global Attitudes and the World Values Survey that are not plain English names, and other
# spellings in common use.
SPELLINGS = {
    # the United Nations', the World Bank's and newspapers' own
    "Myanmar (Burma)": "MMR", "The former Yugoslav Republic of Macedonia": "MKD", "Moldova, Rep.": "MDA",
    "Democratic Republic of Congo": "COD", "Congo, DR": "COD", "Congo Republic": "COG",
    "Republic of Congo": "COG", "Hong Kong, China": "HKG", "Hong Kong (China)": "HKG", "Macao SAR": "MAC",
    "China, Hong Kong Special Administrative Region": "HKG", "Occupied Palestinian Territory": "PSE",
    "Côte d'Ivoire (Ivory Coast)": "CIV", "Korea, North": "PRK",
    "Bosnia Herzegovina": "BIH", "Britain": "GBR", "Great Britain": "GBR", "Czech Rep.": "CZE",
    "Czechia": "CZE", "Hong Kong SAR": "HKG", "Macau SAR": "MAC", "Ivory Coast": "CIV",
    "Northern Ireland": "NIR", "Palest. ter.": "PSE", "Puerto Rico": "PRI",
    "S. Africa": "ZAF", "S. Korea": "KOR", "South Korea": "KOR",
    "Taiwan": "TWN", "Taiwan ROC": "TWN", "North Macedonia": "MKD", "Turkey": "TUR", "Vietnam": "VNM",
    "Viet Nam": "VNM", "U.S.": "USA", "USA": "USA", "us": "USA", "United States of America": "USA",
    "Türkiye": "TUR", "turkiye": "TUR", "Côte d’Ivoire": "CIV", "Cote d'Ivoire": "CIV", "The Gambia": "GMB",
    "Bolivia, Plurinational State of": "BOL", "Republic of Korea": "KOR", "Russian Federation": "RUS",
    "St. Lucia": "LCA", "Trinidad & Tobago": "TTO", "Guinea Bissau": "GNB", "Timor Leste": "TLS",
    "DR Congo": "COD", "Macao": "MAC", "Burma": "MMR", "Kosovo": "XKX", "UAE": "ARE", "Eswatini": "SWZ",
    "Bahamas, The": "BHS", "Congo, Dem. Rep.": "COD", "Congo, Rep.": "COG", "Egypt, Arab Rep.": "EGY",
    "Gambia, The": "GMB", "Iran, Islamic Rep.": "IRN", "Korea, Rep.": "KOR", "Lao PDR": "LAO",
    "Korea, Dem. People's Rep.": "PRK", "Korea (North)": "PRK", "Korea (South)": "KOR", "DPRK": "PRK",
    "Micronesia, Fed. Sts.": "FSM", "Venezuela, RB": "VEN", "Yemen, Rep.": "YEM", "DRC": "COD",
    "Hong Kong SAR, China": "HKG", "Macao SAR, China": "MAC", "West Bank and Gaza": "PSE",
    "Somalia, Fed. Rep.": "SOM", "Virgin Islands (U.S.)": "VIR", "St. Martin (French part)": "MAF",
    "Sint Maarten (Dutch part)": "SXM", "Puerto Rico (US)": "PRI", "Macedonia, FYR": "MKD",
    "St. Vincent and the Grenadines": "VCT", "Brunei Darussalam": "BRN", "Cabo Verde": "CPV",
    "Iran (Islamic Republic of)": "IRN", "Venezuela (Bolivarian Republic of)": "VEN", "PR China": "CHN",
    "China, Hong Kong SAR": "HKG", "Republic of Moldova": "MDA", "United Republic of Tanzania": "TZA",
    "Bosnia and Herz.": "BIH", "Dem. Rep. Congo": "COD", "Taiwan, China": "TWN", "Mainland China": "CHN",
    "  new   zealand ": "NZL", "nzl": "NZL", "NZ": "NZL", "Aland Islands": "ALA", "Korea, South": "KOR",
}  # fmt: skip

EVERYDAY = {
    "BOL": "Bolivia", "RUS": "Russia", "KOR": "South Korea", "VNM": "Vietnam", "TZA": "Tanzania",
    "IRN": "Iran", "USA": "United States", "TUR": "Turkey", "GBR": "United Kingdom", "CIV": "Ivory Coast",
    "SYR": "Syria", "VEN": "Venezuela", "TWN": "Taiwan", "CZE": "Czechia", "LAO": "Laos",
    "NIR": "Northern Ireland",
}  # fmt: skip


@pytest.mark.parametrize(("spelling", "iso3"), SPELLINGS.items())
def test_spellings(spelling, iso3):
    assert find_country(spelling).iso3 == iso3


@pytest.mark.parametrize(("iso3", "name"), EVERYDAY.items())
def test_everyday_names(iso3, name):
    assert find_country(iso3).name == name


@pytest.mark.parametrize(
    ("label", "iso3", "sample"),
    [
        ("India (Current national sample)", "IND", "current national"),
        ("India (Old national sample)", "IND", "old national"),
        ("China (Non-national sample)", "CHN", "non-national"),
        ("S. Africa (Non-national sample) ", "ZAF", "non-national"),
        ("India (CURRENT NATIONAL SAMPLE)", "IND", "current national"),
        ("India (Old National Sample)", "IND", "old national"),
        ("india (old national sample)", "IND", "old national"),
        ("Kenya", "KEN", None),
        ("Congo (Kinshasa)", "COD", None),
    ],
)
def test_samples(label, iso3, sample):
    assert find_country(label).iso3 == iso3
    assert sample_of(label) == sample


def test_every_iso_country_and_the_two_extras():
    codes = {c.iso3 for c in all_countries()}
    assert codes == {c.alpha_3 for c in pycountry.countries} | {"XKX", "NIR"}
    assert len(all_countries()) == len(codes)
    assert len({c.name for c in all_countries()}) == len(codes)


@pytest.mark.parametrize("country", all_countries(), ids=lambda c: c.iso3)
def test_every_country_is_found_by_what_it_is_called(country):
    for text in filter(
        None, (country.iso3, country.iso2, country.name, country.in_text, country.name.upper())
    ):
        assert find_country(text) == country
    for alias in ALIASES.get(country.iso3, ()):
        assert find_country(alias) == country


def test_official_names_lead_home():
    for entry in pycountry.countries:
        assert find_country(entry.name).iso3 == entry.alpha_3
        assert find_country(getattr(entry, "official_name", entry.name)).iso3 == entry.alpha_3


def test_in_text_has_its_article():
    assert find_country("KEN").in_text == "Kenya"
    assert find_country("USA").in_text == "the United States"
    assert find_country("PHL").in_text == "the Philippines"


def test_uk_is_asked_back():
    with pytest.raises(UnknownCountry) as caught:
        find_country("UK")
    assert str(caught.value) == (
        "Unknown country 'UK'. Did you mean GBR (United Kingdom)? 'palette countries' lists all."
    )
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("slip", "meant"), [("Germny", "DEU (Germany)"), ("Keyna", "KEN (Kenya)"), ("America", "USA")]
)
def test_slips_are_suggested(slip, meant):
    with pytest.raises(UnknownCountry) as caught:
        find_country(slip)
    assert meant in str(caught.value)


PLACES = {
    "Zaire": "COD", "Rhodesia": "ZWE", "Ceylon": "LKA", "Siam": "THA", "Upper Volta": "BFA", "USSR": "RUS",
    "Soviet Union": "RUS", "Czechoslovakia": "CZE SVK", "Serbia and Montenegro": "SRB MNE",
    "Korea": "KOR PRK", "P.R.C.": "CHN", "ROC": "TWN", "KSA": "SAU", "EL": "GRC", "Emirates": "ARE",
    "Hawaii": "USA", "England": "GBR", "U.K.": "GBR", "Kampuchea": "KHM", "Gaza": "PSE",
    "Germany (West)": "DEU", "Germany East": "DEU", "Congo, Democratic Republic of the": "COD",
    "Netherlands (Kingdom of the)": "NLD", "Eswatini (Swaziland)": "SWZ",
    "Czechia (Czech Republic)": "CZE", "TFYR Macedonia": "MKD",
    "Central African Rep.": "CAF", "Eq. Guinea": "GNQ", "S. Sudan": "SSD", "N. Macedonia": "MKD",
    "N. Ireland": "NIR", "W. Sahara": "ESH", "Solomon Is.": "SLB", "Guinea-Bisau": "GNB GIN",
    "Kenya (rural)": "KEN",
    # one's own words in another order, or a part of few names
    "Korea N.": "PRK", "Korea S": "KOR", "Rep. of Korea": "KOR", "Papua N.G.": "PNG", "Vatican": "VAT",
    "Burkina": "BFA", "Arabia": "SAU", "Republika Kosova": "XKX", "Chinese Taipei": "TWN",
    "Viet Nam (Socialist Republic of)": "VNM", "Cent. African Rep.": "CAF", "Cote D`Ivoire": "CIV",
    "St. Vincent & Grenadines": "VCT", "India [current national sample]": "IND",
    # what is no country any more, which by letters is like another: British Honduras is Belize
    "British Honduras": "BLZ", "British Guiana": "GUY", "Dutch Guiana": "SUR", "GDR": "DEU",
    "German Democratic Republic": "DEU", "Northern Rhodesia": "ZMB", "South West Africa": "NAM",
    "Nyasaland": "MWI", "Bechuanaland": "BWA", "Basutoland": "LSO", "Malagasy Republic": "MDG",
    "United Arab Rep.": "EGY SYR", "Byelorussia": "BLR", "White Russia": "BLR", "Moldavia": "MDA",
    "Kirghizia": "KGZ", "New Hebrides": "VUT", "Trucial States": "ARE", "Channel Islands": "JEY GGY",
    "Netherlands Antilles": "CUW SXM BES", "Deutschland": "DEU", "Brasil": "BRA", "España": "ESP",
    "Österreich": "AUT", "Magyarország": "HUN",
    # what stands among the countries of tables and is none
    "Africa": "", "Europe": "", "EU": "", "Latin America": "", "World": "", "Total": "", "Other": "",
    "Sub-Saharan Africa": "", "Biafra": "", "Ottoman Empire": "",
}  # fmt: skip


@pytest.mark.parametrize(("text", "codes"), PLACES.items())
def test_names_of_places_are_known_for_what_they_mean(text, codes):
    with pytest.raises(UnknownCountry) as caught:
        find_country(text)
    assert re.findall(r"([A-Z]{3}) \(", str(caught.value)) == codes.split()


@pytest.mark.parametrize(
    "text", ["", "  ", "Atlantis of the far west", "Чad", "日本", "(sample)", "🇰🇪", "the"]
)
def test_what_is_no_country_is_refused(text):
    # "Чad": a letter that is dropped would leave "ad", Andorra's code.
    with pytest.raises(UnknownCountry, match="'palette countries' lists all"):
        find_country(text)


def test_a_long_text_is_shown_short():
    with pytest.raises(UnknownCountry) as caught:
        find_country("x" * 100_000)
    assert len(str(caught.value)) < 200


@given(st.text(max_size=60))
def test_any_text_is_found_or_refused(text):
    try:
        assert isinstance(find_country(text), Country)
    except UnknownCountry as error:
        assert "palette countries" in str(error)
