"""Countries by ISO code, English name, or the spelling of any survey.

Codes and official names are ISO 3166-1 as `pycountry` has it; everyday names and survey spellings are ours.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from dataclasses import dataclass

import pycountry

from cultural_palette.errors import UnknownCountry
from cultural_palette.suggestions import nearest

EVERYDAY = {
    "BOL": "Bolivia", "BRN": "Brunei", "CIV": "Ivory Coast", "COD": "Democratic Republic of the Congo",
    "COG": "Republic of the Congo", "CPV": "Cape Verde", "CZE": "Czechia", "FLK": "Falkland Islands",
    "FSM": "Micronesia", "IRN": "Iran", "KOR": "South Korea", "LAO": "Laos", "MDA": "Moldova",
    "PRK": "North Korea", "PSE": "Palestine", "RUS": "Russia", "SHN": "Saint Helena", "SXM": "Sint Maarten",
    "MAF": "Saint Martin", "SYR": "Syria", "TUR": "Turkey", "TWN": "Taiwan", "TZA": "Tanzania",
    "VAT": "Vatican City", "VEN": "Venezuela", "VGB": "British Virgin Islands", "VIR": "US Virgin Islands",
    "VNM": "Vietnam", "BES": "Caribbean Netherlands", "HKG": "Hong Kong", "MAC": "Macau",
}  # fmt: skip
EXTRAS = {
    # Not in ISO 3166-1, yet countries of their own in surveys. XKX: the user-assigned code in common use;
    # NIR: ours, for the World Values Survey keeps Northern Ireland apart from Great Britain.
    "XKX": ("XK", "Kosovo"),
    "NIR": ("", "Northern Ireland"),
}
ALIASES = {
    # other surveys', the United Nations' and the World Bank's spellings, where ISO has another
    "GBR": ("Britain", "Great Britain", "England and Wales"),
    "USA": ("U.S.", "US", "U.S.A.", "United States of America", "America (USA)"),
    "KOR": ("S. Korea", "Republic of Korea", "Korea South", "Korea, Rep."),
    "PRK": (
        "N. Korea",
        "Korea (North)",
        "DPRK",
        "DPR Korea",
        "Korea, Dem. Rep.",
        "Korea, Dem. People's Rep.",
    ),
    "ZAF": ("S. Africa",),
    "CZE": ("Czech Rep.", "Czech Republic"),
    "BIH": ("Bosnia Herzegovina", "Bosnia-Herzegovina", "Bosnia", "Bosnia and Herz."),
    "HKG": (
        "Hong Kong SAR",
        "Hong Kong SAR PRC",
        "Hong Kong SAR, China",
        "China, Hong Kong SAR",
        "Hong Kong, China",
        "China, Hong Kong Special Administrative Region",
        "Hong Kong (China)",
    ),
    "MAC": (
        "Macau SAR",
        "Macao",
        "Macau SAR PRC",
        "Macao SAR, China",
        "China, Macao SAR",
        "Macao SAR",
        "China, Macao Special Administrative Region",
    ),
    "TWN": ("Taiwan ROC", "Taiwan, China"),
    "PSE": (
        "Palest. ter.",
        "Palestinian territories",
        "Palestinian ter.",
        "West Bank and Gaza",
        "Occupied Palestinian Territory",
    ),
    "CIV": ("Cote d'Ivoire", "Côte d'Ivoire (Ivory Coast)", "Ivory Coast (Côte d'Ivoire)"),
    "VNM": ("Viet Nam",),
    "RUS": ("Russian Federation",),
    "MKD": (
        "Macedonia",
        "Macedonia Rep",
        "FYR Macedonia",
        "Macedonia, FYR",
        "The former Yugoslav Republic of Macedonia",
    ),
    "SWZ": ("Swaziland",),
    "MMR": ("Burma", "Myanmar (Burma)", "Burma (Myanmar)"),
    "MDA": ("Moldova, Rep.",),
    "NLD": ("Holland", "The Netherlands"),
    "ARE": ("UAE",),
    "COD": (
        "DR Congo",
        "DRC",
        "Democratic Republic of Congo",
        "Congo, Democratic Republic",
        "Congo, DR",
        "Congo (Kinshasa)",
        "Congo, Dem. Rep.",
        "Dem. Rep. Congo",
    ),
    "COG": ("Congo", "Republic of Congo", "Congo Republic", "Congo (Brazzaville)", "Congo, Rep."),
    "SVK": ("Slovak Rep", "Slovak Republic"),
    "KGZ": ("Kyrgyz Rep", "Kyrgyz Republic"),
    "DOM": ("Dominican Rep",),
    "BHS": ("Bahamas, The",),
    "CHN": ("PR China", "China (People's Republic of)", "Mainland China"),
    "EGY": ("Egypt, Arab Rep.",),
    "FSM": ("Micronesia, Fed. Sts.",),
    "GMB": ("Gambia, The",),
    "IRN": ("Iran, Islamic Rep.",),
    "LAO": ("Lao PDR",),
    "SOM": ("Somalia, Fed. Rep.",),
    "VEN": ("Venezuela, RB",),
    "YEM": ("Yemen, Rep.",),
    "PRI": ("Puerto Rico (US)",),
    "DEU": ("West Germany", "East Germany"),
    "TLS": ("East Timor",),
    "TTO": ("Trinidad & Tobago", "Trinidad"),
}
NICKNAMES = {  # not names we take, but what people mean by them
    "UK": "GBR", "England": "GBR", "Scotland": "GBR", "Wales": "GBR", "America": "USA", "Korea": "KOR PRK",
    "Holy See": "VAT", "Aotearoa": "NZL", "Persia": "IRN", "Deutschland": "DEU", "EL": "GRC", "Hellas": "GRC",
    "PRC": "CHN", "ROC": "TWN", "KSA": "SAU", "Emirates": "ARE", "Gaza": "PSE", "Zaire": "COD",
    "Belgian Congo": "COD", "Rhodesia": "ZWE", "Ceylon": "LKA", "Siam": "THA", "Formosa": "TWN",
    "Upper Volta": "BFA", "Dahomey": "BEN", "Gold Coast": "GHA", "Abyssinia": "ETH", "Kampuchea": "KHM",
    "Soviet Union": "RUS", "USSR": "RUS", "Czechoslovakia": "CZE SVK", "Tanganyika": "TZA", "Zanzibar": "TZA",
    "Yugoslavia": "SRB HRV BIH", "Serbia and Montenegro": "SRB MNE", "East Pakistan": "BGD",
    "German Democratic Republic": "DEU", "GDR": "DEU", "DDR": "DEU", "FRG": "DEU",
    "United Arab Republic": "EGY SYR", "Northern Rhodesia": "ZMB", "Southern Rhodesia": "ZWE",
    "Nyasaland": "MWI", "Bechuanaland": "BWA", "Basutoland": "LSO", "South West Africa": "NAM",
    "Malagasy Republic": "MDG", "British Honduras": "BLZ", "British Guiana": "GUY", "Dutch Guiana": "SUR",
    "Dutch East Indies": "IDN", "Indochina": "VNM LAO KHM", "Trucial States": "ARE", "Transjordan": "JOR",
    "Mesopotamia": "IRQ", "New Hebrides": "VUT", "Gilbert Islands": "KIR", "Ellice Islands": "TUV",
    "Netherlands Antilles": "CUW SXM BES", "French Sudan": "MLI", "French Somaliland": "DJI",
    "Spanish Guinea": "GNQ", "Portuguese Guinea": "GNB", "Byelorussia": "BLR", "Belorussia": "BLR",
    "White Russia": "BLR", "Moldavia": "MDA", "Kirghizia": "KGZ", "Turkmenia": "TKM", "Kosova": "XKX",
    "Chinese Taipei": "TWN", "Republic of China": "TWN", "Tibet": "CHN", "Catalonia": "ESP",
    "Papua NG": "PNG", "Bonaire": "BES", "Somaliland": "SOM", "Northern Cyprus": "CYP",
    "Channel Islands": "JEY GGY", "Eire": "IRL", "Misr": "EGY", "Brasil": "BRA", "Italia": "ITA",
    "Polska": "POL", "Suomi": "FIN", "Sverige": "SWE", "Norge": "NOR", "Danmark": "DNK",
    "Magyarorszag": "HUN", "Osterreich": "AUT", "Schweiz": "CHE", "Suisse": "CHE", "Hrvatska": "HRV",
    "Shqiperia": "ALB", "Nippon": "JPN", "Bharat": "IND", "Espana": "ESP", "Hawaii": "USA",
}  # fmt: skip
SHORT_FOR = {  # in names as tables have them
    "rep": ("republic",), "dem": ("democratic",), "fed": ("federated", "federal"), "is": ("islands",),
    "n": ("north", "northern"), "s": ("south",), "e": ("east",), "w": ("west", "western"),
    "c": ("central",), "eq": ("equatorial",), "terr": ("territory", "territories"),
}  # fmt: skip
REGIONS = frozenset(
    [
        "africa", "asia", "europe", "oceania", "latin america", "south america", "north america", "caribbean",
        "central america", "middle east", "eu", "european union", "world", "global", "total", "other",
        "others", "all", "average", "none", "missing", "unknown", "nan", "sub saharan africa", "scandinavia",
        "west", "crimea", "kurdistan",
        "western europe", "eastern europe", "southeast asia", "south asia", "east asia", "arab world",
    ]
)  # fmt: skip
"""What stands among the countries of tables and is none: a hint would be a guess."""
MOST_WORDS, MOST_GUESSES = 12, 3
LEAST_LIKE = 0.7  # of 1; below, guesses are by chance: "Total" is like "Portugal" by 0.62
SHORTEST_NAME = 4  # letters; ISO's codes are words too: "and" is Andorra
SAMPLE = re.compile(r"\s*\(([A-Za-z -]+) sample\)$", re.IGNORECASE)
WITH_ARTICLE = re.compile(
    r"^(Bahamas|Comoros|Gambia|Maldives|Netherlands|Philippines|Seychelles|Democratic Republic.*|"
    r"Republic of the .*|Dominican Republic|Central African Republic|Caribbean Netherlands|United .*|"
    r"Isle of Man|.* Islands|.* Territory|.* Territories)$"
)
NO_ARTICLE = ("Solomon Islands",)


@dataclass(frozen=True)
class Country:
    """A country by its ISO 3166-1 codes and its everyday English name."""

    iso3: str
    iso2: str
    name: str

    @property
    def in_text(self) -> str:
        """The name as it stands after "in": "Kenya", "the United States"."""
        article = WITH_ARTICLE.match(self.name) and self.name not in NO_ARTICLE
        return f"the {self.name}" if article else self.name


@functools.cache
def all_countries() -> tuple[Country, ...]:
    """Every ISO 3166-1 country, and Kosovo (XKX) and Northern Ireland (NIR), by name."""
    rows = [
        Country(c.alpha_3, c.alpha_2, EVERYDAY.get(c.alpha_3) or str(getattr(c, "common_name", c.name)))
        for c in pycountry.countries
    ]
    rows += [Country(iso3, iso2, name) for iso3, (iso2, name) in EXTRAS.items()]
    return tuple(sorted(rows, key=lambda c: _plain(c.name)))


def find_country(text: str) -> Country:
    """The country of a code, a name, or a survey's label ("S. Korea", "India (Current national sample)").

    Raises UnknownCountry with the nearest names.
    """
    if not isinstance(text, str):  # input of a server may hold anything
        raise UnknownCountry(
            f"country = {text!r} is no text: give an ISO code or a name, such as 'KEN' or 'Kenya'."
        )
    wanted = _plain(SAMPLE.sub("", text.strip()))
    if country := _index().get(wanted):
        return country
    hint = " or ".join(f"{c.iso3} ({c.name})" for c in _meant_by(wanted))
    did = f" Did you mean {hint}?" if hint else ""
    shown = text if len(text) <= 60 else text[:57] + "..."
    raise UnknownCountry(f"Unknown country {shown!r}.{did} 'palette countries' lists all.")


def sample_of(label: str) -> str | None:
    """Which sample a survey's label means: "current national", "old national", "non-national"; else None."""
    match = SAMPLE.search(label.strip())
    return match[1].lower() if match else None


def _meant_by(wanted: str) -> list[Country]:
    """The countries that a folded text may mean: by a name in use, by its words in another order or spelt
    out, as part of a few names, by a name within it; last by likeness. None for a region.
    """
    by_code = {c.iso3: c for c in all_countries()}
    nicknames = {_plain(name): [by_code[code] for code in codes.split()] for name, codes in NICKNAMES.items()}
    names = {name: [country] for name, country in _index().items()} | nicknames
    words = wanted.split()
    if wanted in REGIONS:
        return []
    if wanted in nicknames:
        return nicknames[wanted]
    if 1 < len(words) <= MOST_WORDS:
        by_words = {tuple(sorted(name.split())): country for name, country in names.items()}
        spelt_out = itertools.product(*((word, *SHORT_FOR.get(word, ())) for word in words))
        for spelling in itertools.islice(spelt_out, 2**MOST_WORDS):
            if country := by_words.get(tuple(sorted(spelling))):
                return country
    parts = [name for name in names if words and set(words) <= set(name.split())]
    if len(few := list(dict.fromkeys(country for name in parts for country in names[name]))) in (1, 2):
        return few
    within = [
        name
        for size in range(min(len(words), MOST_WORDS), 0, -1)
        for start in range(min(len(words), MOST_WORDS) - size + 1)
        if len(name := " ".join(words[start : start + size])) >= SHORTEST_NAME and name in names
    ]
    alike = nearest(wanted, names, n=2 * MOST_GUESSES, cutoff=LEAST_LIKE)
    keys = [*nearest(wanted, names, cutoff=0.85), *within] if within else alike
    return list(dict.fromkeys(country for key in keys for country in names[key]))[:MOST_GUESSES]


@functools.cache
def _index() -> dict[str, Country]:
    """Every accepted spelling, folded, to its country."""
    index: dict[str, Country] = {}
    by_code = {c.iso3: c for c in all_countries()}
    for entry in pycountry.countries:
        country = by_code[entry.alpha_3]
        fields = ("name", "common_name", "official_name", "alpha_2", "alpha_3")
        names = [str(getattr(entry, field, "")) for field in fields]
        index |= {_plain(name): country for name in names if name}
    for code, aliases in ALIASES.items():
        index |= {_plain(alias): by_code[code] for alias in aliases}
    for country in by_code.values():
        index |= {_plain(name): country for name in (country.name, country.iso3, country.iso2) if name}
    index.pop("", None)
    return index


def _plain(text: str) -> str:
    """Folded for comparison: no accents, case, punctuation or leading "the"; "&" is "and", "St." "saint".

    Letters of other scripts stay as they are: dropped, they would leave another country's name or code.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    plain = re.sub(r"[.'\u2018\u2019()]", "", plain).replace("&", " and ")
    words = ["saint" if word == "st" else word for word in re.split(r"[\s,\-\u2010-\u2015]+", plain) if word]
    return " ".join(words[1:] if words[:1] == ["the"] and len(words) > 1 else words)
