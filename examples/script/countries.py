"""One question to several countries, as a table of probabilities.

python examples/script/countries.py "Which matters more?" "Freedom;Equality" NZL KEN JPN > answers.csv
"""

import asyncio
import csv
import sys

import cultural_palette as cp


def main(question: str, options: str, *countries: str) -> None:
    """Write a row for each country; what failed stands in its row, in words."""
    choices = options.split(";")
    asked = [cp.CountryQuestion(country, question, options=choices) for country in countries]
    answers = asyncio.run(cp.batch(asked, at_once=4, errors="keep"))
    table = csv.writer(sys.stdout)
    table.writerow(["country", *choices, "largest weight", "error"])
    for country, answer in zip(countries, answers, strict=True):
        if isinstance(answer, cp.PaletteError):
            table.writerow([country, *[""] * len(choices), "", str(answer)])
            continue
        shares = answer.distribution or {}
        blend = answer.blend or {}
        table.writerow(
            [
                answer.country,
                *(f"{shares[choice]:.3f}" if choice in shares else "" for choice in choices),
                max(blend, key=lambda community: blend[community], default=""),
                "",
            ]
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
