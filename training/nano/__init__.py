"""The nano palette: a model small enough to ship, made from text we wrote, by commands anyone can run again.

`python -m training.nano --help` lists the stages: dialogues, base, agents, merges, ship, report.
"""
