"""The whole way on one page: questions, communities' answers, a dataset, agents, a palette, a table.

    python examples/the_whole_way.py runs/whole-way

On the nano palette, at a size of minutes: it shows the way, and is no source on any culture. Every step is a
command; what a step reads is what the step before wrote. Stop it where you like: the same line goes on.
"""

import json
import subprocess
import sys
from pathlib import Path

from cultural_palette.embedded.manifest import read_manifest

QUESTIONS = [
    "What do people eat at a wedding?",
    "How should I greet my grandparents' friends?",
    "Is work more important than free time?",
    "What does a good neighbour do?",
]
TRAINING = """
orpo:
  learning_rate: 1.0e-3
  epochs: 3
  rank: 8
  alpha: 16
  batch_size: 1
  max_length: 512
  precision: float32
"""


def palette(*arguments: object) -> None:
    """One command, shown as a person would type it."""
    words = [str(argument) for argument in arguments]
    print("\n$ palette", " ".join(word if " " not in word else repr(word) for word in words), flush=True)
    subprocess.run([sys.executable, "-m", "cultural_palette", *words], check=True)


def the_whole_way(out: Path) -> None:
    """From four questions to a table, all of it under `out`."""
    out.mkdir(parents=True, exist_ok=True)
    base = read_manifest("nano").base

    # 1. Questions: in the paper the opening prompts of PRISM, here four of our own.
    queries = out / "queries.jsonl"
    queries.write_text("".join(json.dumps({"query": text}) + "\n" for text in QUESTIONS), encoding="utf-8")

    # 2. Answers: every community's, drafted, reviewed, rewritten and checked by a teacher.
    answers = out / "answers"
    palette("synthesize", "--queries", queries, "--teacher", "embedded:nano", "--out", answers)

    # 3. People read them (an offline page), and their decisions gate the dataset; here nobody decided yet.
    review = out / "review.html"
    if not review.exists():
        palette("review", "export", answers, "--out", review)

    # 4. The dataset: each answer is chosen for its community, the other four are rejected.
    dataset = out / "dataset"
    if not dataset.exists():
        palette("dataset", "build", answers, "--out", dataset, "--test-share", "0")

    # 5. Agents: one a community, by ORPO on those groups.
    config, agents = out / "training.yaml", out / "agents"
    config.write_text(TRAINING, encoding="utf-8")
    groups = dataset / "groups" / "train"
    palette("train", "--config", config, "--base", base, "--data", groups, "--no-joint", "--out", agents)

    # 6. A palette: one base, five agents, and the routers of their mixture.
    mine = out / "palette"
    if not mine.exists():
        palette(
            *("merge", "--method", "moerges", "--base", base, "--adapters", agents / "run-1"),
            *("--any-base", "--out", mine),
        )

    # 7. Ask it.
    palette("ask", "--model", f"embedded:{mine}", "--country", "KEN", "--no-stream", QUESTIONS[0])

    # 8. A table: methods against a survey of real people (here a made-up one), with floors and intervals.
    table = out / "table"
    survey = Path(__file__).resolve().parent.parent / "evaluation" / "data" / "made_up.jsonl"
    palette(
        *("evaluate", "surveys", "--survey", survey, "--countries", "KEN,NZL", "--questions", "2"),
        *("--methods", "vanilla,cultural-palette", "--model", f"embedded:{mine}", "--out", table),
    )
    palette("report", table)
    print(f"\nThe table: {table / 'report' / 'report.md'}; the same as a page, with figures: report.html")


if __name__ == "__main__":
    the_whole_way(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/whole-way"))
