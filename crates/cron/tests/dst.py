"""Writes dst.txt: when twenty schedules fire around eight changes of the clock, worked out without z4.

    python -m venv v && v/bin/pip install croniter==7.0.0 tzdata==2026.5
    PYTHONTZPATH= v/bin/python dst.py > dst.txt

Zone tables are those of the tzdata package (PYTHONTZPATH= keeps the machine's own out). Fields are matched by croniter,
and once more by twenty lines below; both must agree on every minute. The rule for changes is told as a walk: minute by
minute of elapsed time, look at the clock on the wall.

- A named time fires in the first minute in which the clock stands at it or beyond, and never stood so before.
- An interval (hours or minutes with `*` or an open step) fires in each minute in which the clock shows it.
"""

import sys
from datetime import datetime, timedelta, timezone
from importlib.metadata import version
from zoneinfo import ZoneInfo

import croniter
import tzdata

SCHEDULES = [
    "0 0 * * *",  # midnight: does not exist in a spring of Sao Paulo
    "30 0 * * *",
    "30 1 * * *",
    "0 2 * * *",
    "15 2 * * *",
    "30 2 * * *",
    "0 3 * * *",
    "0,30 2 * * *",  # two slots of one gap fire once
    "5 1-3 * * *",
    "0 2,3 * * *",  # the end of the gap is itself a slot
    "0 1,2 * * SUN",
    "45 23 * * SAT,SUN",
    "10 1 1,29 MAR,NOV *",
    "0 2 8 3 MON",  # either day field is enough
    "0 * * * *",
    "*/20 * * * *",
    "*/30 2 * * *",
    "0 */2 * * *",
    "25 1/1 * * *",
    "*/15 1-2 * * SUN",
]

CHANGES = [  # zone, an instant near the change, what happens
    ("Europe/Berlin", "2026-03-29T01:00", "02:00 becomes 03:00"),
    ("Europe/Berlin", "2026-10-25T01:00", "03:00 becomes 02:00"),
    ("America/New_York", "2026-03-08T07:00", "02:00 becomes 03:00"),
    ("America/New_York", "2026-11-01T06:00", "02:00 becomes 01:00"),
    ("Australia/Lord_Howe", "2026-10-03T15:30", "02:00 becomes 02:30"),
    ("Australia/Lord_Howe", "2027-04-03T15:00", "02:00 becomes 01:30"),
    ("America/Sao_Paulo", "2018-11-04T03:00", "00:00 becomes 01:00"),
    ("America/Sao_Paulo", "2019-02-17T02:00", "00:00 becomes 23:00 of the day before"),
]

AROUND = timedelta(hours=27)
MINUTE = timedelta(minutes=1)
NAMES = {name: str(i + 1) for i, name in enumerate("JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split())}
NAMES |= {name: str(i) for i, name in enumerate("SUN MON TUE WED THU FRI SAT".split())}


def values(field, low, high):
    found = set()
    for item in field.split(","):
        base, _, step = item.partition("/")
        first, _, last = base.partition("-")
        if base == "*":
            first, last = low, high
        else:
            first = NAMES.get(first, first)
            last = NAMES.get(last, last) or (high if step else first)
        found |= set(range(int(first), int(last) + 1, int(step or 1)))
    return found


def matches(expression, wall):
    minute, hour, day, month, weekday = expression.split()
    days = wall.day in values(day, 1, 31)
    weekdays = wall.isoweekday() % 7 in values(weekday, 0, 7)
    either = not day.startswith("*") and not weekday.startswith("*")
    return (
        wall.minute in values(minute, 0, 59)
        and wall.hour in values(hour, 0, 23)
        and wall.month in values(month, 1, 12)
        and (days or weekdays if either else days and weekdays)
    )


def both(expression, wall):
    ours = matches(expression, wall)
    theirs = croniter.croniter.match(expression, wall)
    assert ours == theirs, (expression, wall, ours, theirs)
    return ours


def is_open(field):
    return any(item.startswith("*") or ("/" in item and "-" not in item) for item in field.split(","))


def walk(expression, zone, begin, end):
    """Yields the instants after begin, up to end, at which the expression fires."""
    minute, hour, *_ = expression.split()
    interval = is_open(minute) or is_open(hour)

    def clock(instant):
        return instant.astimezone(zone).replace(tzinfo=None)

    # How far the clock has ever come: two days back are more than any change of it.
    furthest = max(clock(begin - i * MINUTE) for i in range(2 * 24 * 60))
    instant = begin
    while instant < end:
        instant += MINUTE
        wall = clock(instant)
        if interval:
            fires = both(expression, wall)
        else:
            fires = False
            while furthest < wall:
                furthest += MINUTE
                fires |= both(expression, furthest)
        if fires:
            yield instant


def main():
    print(f"# Written by dst.py with Python {sys.version.split()[0]}, croniter {version('croniter')},")
    print(f"# tzdata {tzdata.__version__} (IANA {tzdata.IANA_VERSION}). Instants are UTC.")
    for zone, near, what in CHANGES:
        near = datetime.fromisoformat(near).replace(tzinfo=timezone.utc)
        begin, end = near - AROUND, near + AROUND
        info = ZoneInfo(zone)
        before, after = ((near + d).astimezone(info).utcoffset() for d in (-MINUTE, timedelta(0)))
        assert before != after, f"{zone} does not change at {near}"
        print(f"\n# {zone}: {what}")
        print(f"window {zone} {begin:%Y-%m-%dT%H:%M} {end:%Y-%m-%dT%H:%M}")
        for expression in SCHEDULES:
            slots = [f"{slot:%m-%dT%H:%M}" for slot in walk(expression, info, begin, end)]
            print(f"{expression} = {' '.join(slots)}".rstrip())


main()
