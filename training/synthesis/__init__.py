"""The Pentachromatic dataset's answers: a teacher model answers every query for every community of a map.

`run` writes the rows, `teacher` makes and pays for the calls, `teacher_servers` sends them, `batch` the
providers' files, `estimate` what it will cost.
"""
