"""The tags that runs carry in MLflow."""

KEY, KIND, RECIPE = "fuseline.key", "fuseline.kind", "fuseline.recipe"
ID = "fuseline.id"
"""The run's own id, by which it is found again where nobody noted which id MLflow gave it."""

OWNER = "fuseline.owner"
"""The process that told of it last, as ``HOST:PID``."""

ATTEMPT, ATTEMPTS, STATUS = "fuseline.attempt", "fuseline.attempts", "fuseline.status"
REASON, FAILURE = "fuseline.reason", "fuseline.failure"
"""Why a run ended badly, in a sentence; and of a member what kind of failure it was. A run that goes on loses both, and says
under ``fuseline.reason.N`` why its attempt N ended."""

ORIGIN = "fuseline.origin"
"""The run that trained a member which another one reuses."""

VERSION = "fuseline.version"
"""What the run registered, or what it is about, as ``NAME/VERSION``."""

MANIFEST = "fuseline.manifest"
"""Of a version: the sha256 of its package's manifest, so that its files can't be exchanged where they lie alone."""

ENTRIES = "fuseline.entries"
"""The store's entries that a finished run is made of, but for its plan's replicas: ``KIND/KEY KIND/KEY …``. What does not fit
into one tag goes on in ``fuseline.entries.1`` and so on."""

LONGEST = 4000
"""What a tag of entries holds at the most; MLflow cuts off what is longer than 8,000."""


def entry_tags(entries: list[tuple[str, str]]) -> dict[str, str]:
    """
    >>> entry_tags([("plan", "a"), ("bank", "b")])
    {'fuseline.entries': 'plan/a bank/b'}
    >>> [len(text) for text in entry_tags([("fusion", "k" * 32)] * 150).values()]
    [3999, 1999]
    """
    parts: list[str] = []
    for kind, key in entries:
        word = f"{kind}/{key}"
        if parts and len(parts[-1]) + 1 + len(word) <= LONGEST:
            parts[-1] += f" {word}"
        else:
            parts.append(word)
    return {ENTRIES if number == 0 else f"{ENTRIES}.{number}": part for number, part in enumerate(parts)}


def tagged_entries(tags: dict[str, str]) -> list[tuple[str, str]]:
    """The entries that a run's tags name.

    >>> tagged_entries(entry_tags([("plan", "a"), ("bank", "b")]) | {"fuseline.key": "a"})
    [('plan', 'a'), ('bank', 'b')]
    """
    texts = [text for name, text in sorted(tags.items()) if name == ENTRIES or name.startswith(f"{ENTRIES}.")]
    return [(kind, key) for text in texts for kind, _, key in (word.partition("/") for word in text.split())]


PLAN = "fuseline.plan"
"""Of a version: the key of the plan that made it last; its test rows are those that the version is judged on."""

MODEL, EVENT, NUMBER, CHALLENGER = "fuseline.model", "fuseline.event", "fuseline.number", "fuseline.challenger"
BEFORE, AFTER, PREVIOUS = "fuseline.from", "fuseline.to", "fuseline.previous"
WHO, WHY, VERDICT, FORCED = "fuseline.who", "fuseline.why", "fuseline.verdict", "fuseline.forced"
JUDGED, SKETCH = "fuseline.judged", "fuseline.rows"
"""Of a run in the history of a registered model: what happened, to whom, from which champion to which, who did it and why; what
was judged, on which rows. See :mod:`fuseline.tracking.champions`."""
