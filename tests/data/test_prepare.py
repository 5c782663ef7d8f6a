import json
import random
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from newslora import NewsloraError
from newslora.config import DataConfig
from newslora.data.audit_file import Verdict, write_audit
from newslora.data.cleaning import Cleaner
from newslora.data.prepare import Prepared, Split, prepare

TOPICS = {
    "Sport": ["striker", "keeper", "league", "goal", "coach", "whistle", "final", "sprint", "medal", "relay"],
    "Geld": ["lender", "shares", "bond", "profit", "merger", "market", "dividend", "tariff", "audit", "price"],
    "Welt": ["border", "envoy", "treaty", "ministry", "ferry", "parliament", "refugee", "summit", "vote", "truce"],
    "Kultur": ["novel", "gallery", "choir", "festival", "painter", "premiere", "museum", "actor", "script", "ballet"],
    "Technik": ["chip", "sensor", "robot", "orbit", "battery", "software", "telescope", "antenna", "laser", "probe"],
}
HEADER = "nr,ressort,kopf,rumpf"


def rows(count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    lines = []
    for number in range(count):
        topic = generator.choice(list(TOPICS))
        words = generator.choices(TOPICS[topic], k=16)
        lines.append(f"{number},{topic},{' '.join(words[:5])} {seed},{' '.join(words[5:])} #39;{number}")
    return lines


def write(path: Path, lines: list[str], header: str = HEADER) -> str:
    path.write_text("\n".join([header, *lines]) + "\n")
    return str(path)


def check(split: Split, count: int) -> None:
    assert len(split.texts) == len(split.labels) == len(split.places) == len(split.encoded) == count


def same(a: Split, b: Split) -> bool:
    tokens = np.array_equal(a.encoded.ids, b.encoded.ids) and np.array_equal(a.encoded.offsets, b.encoded.offsets)
    return tokens and (a.texts, a.labels, a.places, a.source) == (b.texts, b.labels, b.places, b.source)


@pytest.fixture
def prepared(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Prepared:
    lines = rows(200, 1)
    lines[10] = "10,Sport,,"  # empty
    lines[20] = "20,Sport,12,34 56"  # no letters
    lines[30] = lines[29].replace("29,", "30,", 1)  # repeats the row before
    lines[40] = f"40,{'Geld' if ',Sport,' in lines[39] else 'Sport'},{lines[39].split(',', 2)[2]}"  # contradicts it
    test = [*rows(30, 2), lines[50]]
    config = {"train": write(tmp_path / "train.csv", lines), "test": write(tmp_path / "test.csv", test)}
    return prepare(DataConfig.model_validate(config | {"validation_share": 0.1}), tokenizer, seed=3)


def test_five_topics_under_unknown_names_need_no_flag(prepared: Prepared) -> None:
    assert prepared.names == ("Geld", "Kultur", "Sport", "Technik", "Welt")
    assert prepared.report["tables"]["train"]["columns"] == {"text": ["kopf", "rumpf"], "label": "ressort"}
    assert prepared.test is not None
    for split, count in ((prepared.train, 175), (prepared.validation, 20), (prepared.test, 31)):
        check(split, count)
        assert all(
            set(text.split()[:5]) <= set(TOPICS[prepared.names[label]])
            for text, label in zip(split.texts, split.labels, strict=True)
        )
        assert all(Cleaner().repair(text) == text and "#39;" not in text for text in split.texts)


def test_rows_keep_their_places(prepared: Prepared) -> None:
    lines = Path(prepared.train.source).read_text().splitlines()
    for split in (prepared.train, prepared.validation):
        for text, place in zip(split.texts, split.places, strict=True):
            assert text == Cleaner().repair(" ".join(lines[place - 1].split(",")[2:]))
    assert set(prepared.train.places).isdisjoint(prepared.validation.places)


def test_the_report_counts_and_shows_what_was_done(prepared: Prepared) -> None:
    report = json.loads(json.dumps(prepared.report))
    assert report == prepared.report
    assert report["rows"] == {"train": 175, "validation": 20, "test": 31}
    assert (report["tables"]["train"]["rows"], report["tables"]["train"]["repaired"]) == (200, 198)
    counts = {name: entry["rows"] for name, entry in report["filters"].items()}
    assert counts["empty"] == counts["non_letters"] == counts["duplicate"] == 1
    assert counts["label_conflict"] == 2
    assert sum(counts.values()) == 5
    source = prepared.train.source
    assert report["filters"]["empty"]["examples"] == [{"place": f"{source}:12", "text": ""}]
    assert [row["place"] for row in report["filters"]["label_conflict"]["examples"]] == [f"{source}:41", f"{source}:42"]
    leaks = report["leaks"]
    assert leaks["validation in train"]["rows"] == 0
    assert leaks["test in train"]["rows"] + leaks["test in validation"]["rows"] == 1
    for shares in report["classes"].values():
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert report["label_base"] is None


def test_rows_that_an_audit_flags_are_dropped_first_and_counted(
    prepared: Prepared, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    train, wrong = prepared.train, {5, 77}
    marks = [row in wrong for row in range(len(train.places))]
    rows = zip(train.places, train.labels, marks, strict=True)
    verdicts = [Verdict(place, prepared.names[label], "", 0.9, drop, (), "") for place, label, drop in rows]
    write_audit(tmp_path / "audit.csv", verdicts)
    config = DataConfig(train=train.source, validation_share=0.1, drop=str(tmp_path / "audit.csv"))
    again = prepare(config, tokenizer, seed=3)
    left = {*again.train.places, *again.validation.places}
    assert {*train.places, *prepared.validation.places} - left == {train.places[row] for row in wrong}
    flagged = again.report["filters"]["flagged"]
    assert next(iter(again.report["filters"])) == "flagged" and flagged["rows"] == 2
    assert flagged["examples"][0] == {"place": f"{train.source}:{train.places[5]}", "text": train.texts[5]}


def test_one_seed_gives_one_split(prepared: Prepared, tokenizer: PreTrainedTokenizerFast) -> None:
    config = DataConfig(train=prepared.train.source, validation_share=0.1)
    again, other = (prepare(config, tokenizer, seed) for seed in (3, 4))
    assert same(again.train, prepared.train)
    assert same(again.validation, prepared.validation)
    assert other.validation.places != prepared.validation.places


def test_the_limit_draws_training_rows_and_leaves_validation(
    prepared: Prepared, tokenizer: PreTrainedTokenizerFast
) -> None:
    config = DataConfig(train=prepared.train.source, validation_share=0.1, limit=50)
    limited = prepare(config, tokenizer, seed=3)
    check(limited.train, 50)
    assert set(limited.train.places) <= set(prepared.train.places)
    assert same(limited.validation, prepared.validation)
    whole, drawn = (np.bincount(split.labels) for split in (prepared.train, limited.train))
    assert np.abs(drawn - whole * 50 / 175).max() <= 1


def test_an_explicit_validation_table_is_taken_whole(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    lines = rows(60, 1)
    aside = [lines[5], lines[5], "1,Sport,,"]
    config = DataConfig(train=write(tmp_path / "a.csv", lines), validation=write(tmp_path / "b.csv", aside))
    prepared = prepare(config, tokenizer, seed=0)
    check(prepared.train, 60)
    check(prepared.validation, 3)
    assert prepared.report["leaks"]["validation in train"]["rows"] == 2
    assert prepared.test is None
    assert list(prepared.report["leaks"]) == ["validation in train"]


def test_integers_mean_in_the_test_table_what_they_mean_in_training(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    names = list(TOPICS)
    codes = [
        ",".join([line.split(",")[0], str(names.index(line.split(",")[1])), *line.split(",")[2:]])
        for line in rows(80, 1)
    ]
    test = [line for line in codes if line.split(",")[1] in {"1", "2"}]  # no 0 here, yet they count from 0
    config = {"classes": names, "label": "ressort", "test": write(tmp_path / "b.csv", test)}
    prepared = prepare(
        DataConfig.model_validate(config | {"train": write(tmp_path / "a.csv", codes)}), tokenizer, seed=0
    )
    assert prepared.names == tuple(names)
    assert prepared.report["label_base"] == 0
    assert prepared.test is not None
    assert set(prepared.test.labels) == {1, 2}


def test_a_table_with_fewer_classes_is_read_with_those_of_training(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    test = [line for line in rows(60, 2) if ",Sport," in line or ",Welt," in line]
    config = {"train": write(tmp_path / "a.csv", rows(80, 1)), "test": write(tmp_path / "b.csv", test)}
    prepared = prepare(DataConfig.model_validate(config), tokenizer, seed=0)
    assert prepared.test is not None
    assert {prepared.names[label] for label in prepared.test.labels} == {"Sport", "Welt"}


def test_agencies_are_dropped_from_every_table(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    lines = [line.replace(",", ",(Reuters) ", 3).replace("(Reuters) ", "", 2) for line in rows(40, 1)]
    path = write(tmp_path / "a.csv", lines)
    assert "(Reuters)" in prepare(DataConfig(train=path), tokenizer, 0).train.texts[0]
    prepared = prepare(DataConfig(train=path, test=path, drop_agency=True), tokenizer, 0)
    assert prepared.test is not None
    for split in (prepared.train, prepared.validation, prepared.test):
        assert not any("Reuters" in text for text in split.texts)
    assert prepared.cleaner == Cleaner(drop_agency=True)


def test_an_unknown_label_in_the_test_table_is_named(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    test = write(tmp_path / "test.csv", [*rows(5, 2), "6,Wetter,kopf,rumpf"])
    config = DataConfig(train=write(tmp_path / "a.csv", rows(60, 1)), test=test)
    with pytest.raises(NewsloraError) as caught:
        prepare(config, tokenizer, 0)
    assert str(caught.value) == f"{test}:7: unknown label 'Wetter'; known labels: Geld, Kultur, Sport, Technik, Welt"


def test_nothing_left_is_an_error_that_says_what_each_filter_took(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    lines = [*rows(60, 1), "60,Sport,,", "61,Geld,,"]
    path = write(tmp_path / "a.csv", lines)
    with pytest.raises(NewsloraError) as caught:
        prepare(DataConfig(train=path, min_tokens=400), tokenizer, 0)
    assert str(caught.value).startswith(
        f"{path}: 0 of 62 rows are left after filtering (taken: 2 empty, 60 too_short); give rows of two classes"
    )


def test_one_class_left_is_an_error(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    sport = [line for line in rows(60, 1) if ",Sport," in line]
    path = write(tmp_path / "a.csv", [*sport, "60,Geld,,", "61,Geld,,"])
    with pytest.raises(
        NewsloraError, match=r"a\.csv: \d+ of \d+ rows are left of one class|rows are left after filtering"
    ):
        prepare(DataConfig(train=path, label="ressort"), tokenizer, 0)


def test_too_few_rows_to_set_aside_is_an_error(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write(tmp_path / "a.csv", [rows(1, 1)[0], "7,Wetter,sun and rain tomorrow,over hills and valleys"])
    with pytest.raises(
        NewsloraError, match=r"a\.csv: too few rows to set some aside for validation; give --data\.validation"
    ):
        prepare(DataConfig(train=path, label="ressort", text=("kopf", "rumpf")), tokenizer, 0)


def test_the_packaged_sample_is_prepared(tokenizer: PreTrainedTokenizerFast) -> None:
    prepared = prepare(DataConfig(test="sample", max_tokens=4000), tokenizer, 0)
    assert prepared.names == ("World", "Sports", "Business", "Sci/Tech")
    assert len(prepared.train.texts) + len(prepared.validation.texts) == prepared.report["tables"]["train"]["rows"]
    assert not any(leak["rows"] for leak in prepared.report["leaks"].values())
