"""Dataset checks: the records of one task in one file, looked at together.

A profile holds numbers (31 bytes a record, and 8 for each style that it shows) and bounded samples, no texts of all.
"""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from data_tools.doctoring.findings import ERROR, INFO, WARNING
from data_tools.doctoring.record_checks import (
    FILE_SHIFT,
    OTHER,
    STYLES,
    Check,
    CheckedRecord,
    DoctorSettings,
)
from zh_embedder.core.counts import counted
from zh_embedder.losses.teacher_temperature import ENTROPY, entropy_shares, find_temperature
from zh_embedder.text.prefix import excerpt

SAMPLE = 2000  # texts of each side, or scored records, that are kept
MAX_LABELS = 1000  # more are no labels
HEAD = 6  # characters that queries share before it is called a prefix
MAX_HEADS = 4096
SHARED = 0.9  # of the texts
MIN_RECORDS = 20  # below it, shares say nothing
FLAT = 0.95  # of the greatest entropy
TAIL = 3.0  # interquartile ranges of the logarithm of lengths
FAR = 4.0  # times the median: below it no length is strange
RARE = 0.02  # of the records: more are a part of the dataset (first turns of dialogues), not outliers
FEW = 3
CUT = 0.1  # share of texts
MIXED = 0.2  # of the records that show a style: no rule is broken where this many do it the other way
WAYS = {  # of 0 and 1 of each style
    "letters and digits": ("half-width", "full-width"),
    "punctuation": ("full-width", "half-width"),
    "script": ("Simplified", "Traditional"),
}
LINE = (1 << FILE_SHIFT) - 1

Where = tuple[int, str]  # line, message
SIDES = ("query", "key")
OTHER_WAY = [OTHER[name] for name in STYLES]


@dataclass(slots=True)
class Sample:
    """A uniform sample of a stream, the same in every run."""

    kept: list[str] = field(default_factory=list)
    seen: int = 0
    draws: random.Random = field(default_factory=lambda: random.Random(0))

    def add(self, text: str) -> None:
        """Take a text up, or not."""
        self.seen += 1
        if len(self.kept) < SAMPLE:
            self.kept.append(text)
        elif (at := self.draws.randrange(self.seen)) < SAMPLE:
            self.kept[at] = text


@dataclass(slots=True)
class Profile:
    """What is remembered of a dataset."""

    file: str
    task: str
    first: int  # line
    count: int = 0
    places: array[int] = field(default_factory=lambda: array("Q"))
    lengths: tuple[array[int], array[int]] = field(default_factory=lambda: (array("I"), array("I")))  # longest key
    styles: list[tuple[array[int], array[int]]] = field(
        default_factory=lambda: [(array("Q"), array("Q")) for _ in STYLES]
    )
    examples: list[dict[int, str]] = field(default_factory=lambda: [{} for _ in STYLES])  # place -> what was seen
    samples: tuple[Sample, Sample] = field(default_factory=lambda: (Sample(), Sample()))
    scores: list[list[float]] = field(default_factory=list)
    scored: int = 0
    beaten: int = 0  # records in which a negative scores above all positives
    labels: Counter[str] = field(default_factory=Counter)
    positives: int = 0
    heads: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))

    def add(self, item: CheckedRecord) -> None:
        """Take a record up."""
        self.count += 1
        self.positives += len(item.pos)
        keys = [*item.pos, *item.neg]
        self.places.append(item.place)
        self.lengths[0].append(len(item.query.text))
        self.lengths[1].append(max((len(key.text) for key in keys), default=0))
        self._add_styles(item)
        for side, looks in enumerate(([item.query], item.pos)):
            for one in looks:
                count_head(self.heads[side], one.text)
        for side, looks in enumerate(([item.query], keys)):
            for one in looks:
                self.samples[side].add(one.text)
        if item.label is not None and len(self.labels) < MAX_LABELS:
            self.labels[item.label] += 1
        if item.scores is not None and len(item.scores) > 1:
            self._add_scores(item, list(item.scores))

    def _add_styles(self, item: CheckedRecord) -> None:
        looks = list(item.texts())
        for index, (usual, other) in enumerate(self.styles):
            ways = {one.styles[index] for _, one in looks}
            if 0 in ways:
                usual.append(item.place)
            if 1 in ways:
                other.append(item.place)
                if len(self.examples[index]) < SAMPLE:
                    name, one = next((name, one) for name, one in looks if one.styles[index] == 1)
                    self.examples[index][item.place] = f" ({name}: {excerpt(OTHER_WAY[index](one.text), 12)})"

    def _add_scores(self, item: CheckedRecord, scores: list[float]) -> None:
        self.scored += 1
        if len(self.scores) < SAMPLE:
            self.scores.append(scores)
        positives, negatives = scores[: len(item.pos)], scores[len(item.pos) :]
        self.beaten += bool(positives and negatives) and max(negatives) > max(positives)


def count_head(heads: Counter[str], text: str) -> None:
    """Count how a text begins; of many beginnings the rare ones are forgotten, a shared one never is."""
    if len(heads) >= MAX_HEADS:
        rare = 1 + heads.total() // MAX_HEADS
        for head in [head for head, count in heads.items() if count <= rare]:
            del heads[head]
    heads[text[:HEAD]] += 1


# ---- checks ---------------------------------------------------------------------------------------------------------


def mixture(name: str) -> Callable[[Profile, DoctorSettings], Iterator[Where]]:
    """Make the check of one style: each record that does it the rarer way, or one finding where there is no rule."""
    index = list(STYLES).index(name)

    def find(profile: Profile, settings: DoctorSettings) -> Iterator[Where]:
        both = profile.styles[index]
        rarer = int(len(both[1]) <= len(both[0]))
        few, many = len(both[rarer]), len(both[1 - rarer])
        if few > MIXED * (few + many):
            ways = f"{WAYS[name][rarer]} in {few:,} records, {WAYS[name][1 - rarer]} in {many:,}"
            yield profile.first, f"task {profile.task}: {name}: {ways}"
        elif many:
            for place in both[rarer]:
                seen = profile.examples[index].get(place, "") if rarer else ""
                yield place & LINE, f"{name}: {WAYS[name][rarer]}{seen}, as in {few:,} of {profile.count:,} records"

    return find


def small_dataset(profile: Profile, settings: DoctorSettings) -> Iterator[Where]:
    """Fewer records than a step takes: they are cycled, and repeats masked."""
    if profile.count < settings.step_batch:
        yield (
            profile.first,
            f"task {profile.task}: {counted(profile.count, 'record')}, a step takes {settings.step_batch}",
        )


def shared_prefix(profile: Profile, settings: DoctorSettings) -> Iterator[Where]:
    """Nearly all queries, or keys, begin alike: perhaps with an instruction that the version does not know."""
    for side, heads in enumerate(profile.heads):
        if profile.count < MIN_RECORDS or not heads:
            continue
        head, count = heads.most_common(1)[0]
        if len(head) == HEAD and count >= SHARED * (profile.count, profile.positives)[side]:
            sample = [text for text in profile.samples[side].kept if text.startswith(head)]
            yield profile.first, f"{count:,} {SIDES[side]} texts begin with {excerpt(common(sample), 60)}"


def common(texts: list[str]) -> str:
    """Return the longest beginning that nine in ten of the texts share."""
    prefix = ""
    while texts:
        heads = Counter(text[: len(prefix) + 1] for text in texts)
        head, count = heads.most_common(1)[0]
        if len(head) == len(prefix) or count < SHARED * len(texts):
            break
        prefix = head
    return prefix


def teacher_flat(profile: Profile, settings: DoctorSettings) -> Iterator[Where]:
    """Scores so close together that the target is nearly uniform at the temperature of training."""
    telling = [own for own in profile.scores if max(own) > min(own)]
    if len(telling) < MIN_RECORDS:
        return
    temperature = temperature_of(profile.task, settings)
    entropy = float(entropy_shares(telling, temperature).mean())
    if entropy > FLAT:
        better = find_temperature(telling, ENTROPY)
        yield (
            profile.first,
            f"task {profile.task}: the targets' entropy is {entropy:.3f} of the greatest at teacher_temperature "
            f"{temperature:g}; {better:g} makes it {ENTROPY}",
        )


def temperature_of(task: str, settings: DoctorSettings) -> float:
    """Return the teacher temperature that the version sets for a task, else the flag's."""
    version = settings.version
    spec = None if version is None else version.tasks.get(task, version.default)
    own = None if spec is None else spec.training.teacher_temperature
    return float(own) if isinstance(own, int | float) else settings.teacher_temperature


def teacher_disagrees(profile: Profile, settings: DoctorSettings) -> Iterator[Where]:
    """In most records a negative has the best score: turned around, or the positives are none."""
    if profile.scored >= MIN_RECORDS and profile.beaten > profile.scored / 2:
        share = profile.beaten / profile.scored
        yield profile.first, f"task {profile.task}: in {share:.0%} of the scored records a negative beats all positives"


def truncated(profile: Profile, settings: DoctorSettings) -> Iterator[Where]:
    """A share of the texts that loses its end."""
    if settings.tokenizer is None:
        return
    from zh_embedder.text.tokens import cut_share

    for name, sample, limit in zip(SIDES, profile.samples, settings.max_lengths, strict=True):
        share = cut_share(settings.tokenizer, sample.kept, limit)
        if share > CUT:
            flag = f"--{name}_max_length {limit}"
            yield profile.first, f"task {profile.task}: {share:.0%} of {name} texts are cut at {flag}"


def unknown_characters(profile: Profile, settings: DoctorSettings) -> Iterator[Where]:
    """Texts in a language that the tokenizer does not know: all of them become alike."""
    if settings.tokenizer is None:
        return
    from zh_embedder.text import tokens, unknown

    texts = [text[: unknown.LONGEST] for sample in profile.samples for text in unknown.sample_of(sample.kept)]
    lacking, total = tokens.unknown_characters(settings.tokenizer, texts)
    share = lacking.total() / max(1, total)
    if share > unknown.MAX_UNKNOWN:
        shown = " ".join(character for character, _ in lacking.most_common(unknown.SHOWN))
        yield (
            profile.first,
            f"task {profile.task}: the tokenizer of {settings.base} does not know {share:.0%} of the characters "
            f"({shown} ...), expected at most {unknown.MAX_UNKNOWN:.0%}; take another base",
        )


def length_outlier(profile: Profile, settings: DoctorSettings) -> Iterator[Where]:
    """Texts far longer, or queries far shorter, than the others of their dataset."""
    for side, name in enumerate(SIDES):
        lengths = np.asarray(profile.lengths[side])
        if len(lengths) < MIN_RECORDS or not lengths.any():
            continue
        logs = np.log(np.maximum(lengths, 1))
        low, middle, high = np.quantile(logs, (0.25, 0.5, 0.75))
        reach = max(TAIL * (high - low), np.log(FAR))
        for strange, what in ((logs > high + reach, "long"), (logs < low - reach, "short")):
            at = np.flatnonzero(strange).tolist()
            if what == "short" and side:  # the longest key of a record
                continue
            if len(at) > max(FEW, RARE * len(lengths)):
                texts = f"{len(at):,} of {len(lengths):,} are far from the median of {np.exp(middle):,.0f} characters"
                yield profile.first, f"task {profile.task}: {name} texts: {texts}, too {what} but too many for outliers"
                continue
            for one in at:
                line = profile.places[one] & LINE
                yield line, f"a {name} of {lengths[one]:,} characters, the median is {np.exp(middle):,.0f}"


def label_imbalance(profile: Profile, settings: DoctorSettings) -> Iterator[Where]:
    """Labels of which one is ten times as frequent as another, or has nearly all texts."""
    if profile.count < MIN_RECORDS or not profile.labels or len(profile.labels) >= MAX_LABELS:
        return
    (most, many), (least, few) = profile.labels.most_common()[0], profile.labels.most_common()[-1]
    if many >= 10 * few or many >= 0.8 * profile.labels.total():
        yield profile.first, f"task {profile.task}: label {most!r} has {many:,} texts, {least!r} has {few:,}"


DatasetCheck = Check[Callable[[Profile, DoctorSettings], Iterator[Where]]]
DATASET_CHECKS: Mapping[str, DatasetCheck] = {
    "width_letters": Check(INFO, "letters or digits in the rarer width of the dataset", mixture("letters and digits")),
    "width_punctuation": Check(INFO, "punctuation in the rarer width of the dataset", mixture("punctuation")),
    "script_mixture": Check(WARNING, "the rarer script of the dataset: Traditional or Simplified", mixture("script")),
    "small_dataset": Check(WARNING, "fewer records than one step takes", small_dataset),
    "shared_prefix": Check(WARNING, "one beginning of nearly all queries or keys", shared_prefix),
    "teacher_flat": Check(WARNING, "teacher scores squeezed together", teacher_flat),
    "teacher_disagrees": Check(ERROR, "negatives beat positives in most records", teacher_disagrees),
    "unknown_characters": Check(ERROR, "characters that the tokenizer does not know: over 20 %", unknown_characters),
    "truncated": Check(INFO, "a share of texts over 10 % is cut", truncated),
    "length_outlier": Check(INFO, "a text far longer or shorter than the others", length_outlier),
    "label_imbalance": Check(WARNING, "labels of very different frequency", label_imbalance),
}
