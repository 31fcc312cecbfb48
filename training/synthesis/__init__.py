"""The Pentachromatic dataset's answers: a teacher model answers every query for every community of a map.

`run` holds the job, `teacher` how it is asked and paid for, `server` how requests travel, `batch` the
providers' files, `estimate` what it will cost.
"""
