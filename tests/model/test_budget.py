"""Counts by arithmetic are the counts of the built model, and the plan says what fits."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, PreTrainedConfig

from newslora.config import LoraConfig, ModelConfig
from newslora.errors import NewsloraError
from newslora.model import adapter
from newslora.model.backbone import load_config
from newslora.model.budget import HEADS, RANKS, TARGET_SETS, Planner, as_rows, check_budget, count, meta_model
from newslora.model.families import FAMILIES, GROUPS, TARGETS

CONFIGS = {kind: AutoConfig.for_model(kind) for kind in FAMILIES}


def small_config(kind: str, layers: int, head_size: int, heads: int, inner: int) -> PreTrainedConfig:
    width = head_size * heads
    sizes: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
    }
    if kind == "distilbert":
        sizes = {"dim": width, "n_layers": layers, "n_heads": heads, "hidden_dim": inner}
    if kind == "electra":
        sizes["embedding_size"] = 8
    if kind == "modernbert":  # its special tokens lie beyond so small a vocabulary
        sizes |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
    return AutoConfig.for_model(kind, vocab_size=50, **sizes)


def built(config: PreTrainedConfig, labels: int, lora: LoraConfig, head: str) -> Any:
    return adapter.attach(meta_model(config, labels), FAMILIES[config.model_type], lora, head)


shapes = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(list(FAMILIES)),
        "layers": st.integers(1, 3),
        "head_size": st.sampled_from([2, 4, 6]),
        "heads": st.integers(1, 3),
        "inner": st.integers(3, 20),
    }
)
target_sets = st.lists(st.sampled_from([*TARGETS, *GROUPS]), min_size=1, max_size=3)


@pytest.mark.parametrize(
    ("head", "r", "trainable", "fits"),
    [("full", 8, 888_580, True), ("full", 16, 1_183_492, False), ("linear", 16, 592_900, True)],
)
def test_known_counts_of_roberta_base_without_weights(head: str, r: int, trainable: int, fits: bool) -> None:
    planner = Planner(load_config("roberta-base"), 4, "roberta-base")
    plan = planner.plan(("query", "value"), head, r, 1_000_000)
    assert (plan.trainable, plan.fits) == (trainable, fits)
    assert plan.lora + plan.head_parameters == plan.trainable
    assert plan.share == trainable / 1_000_000


@settings(max_examples=60, deadline=None)
@given(shape=shapes, targets=target_sets, head=st.sampled_from(HEADS), r=st.integers(1, 9), data=st.data())
def test_the_arithmetic_equals_the_parameters_of_the_built_model(
    shape: dict[str, Any], targets: list[str], head: str, r: int, data: st.DataObject
) -> None:
    config, labels = small_config(**shape), data.draw(st.integers(2, 5))
    layers = data.draw(st.none() | st.sets(st.integers(0, shape["layers"] - 1), min_size=1).map(tuple))
    planned = Planner(config, labels, "it", layers).plan(tuple(targets), head, r, 1000)
    lora = LoraConfig(targets=tuple(targets), r=r, layers=layers)
    counts = count(built(config, labels, lora, head))
    assert counts.trainable == planned.trainable
    plain = sum(p.numel() for p in meta_model(config, labels).parameters())
    in_head_update = planned.head_parameters if head == "lora" else 0
    output = Planner(config, labels, "it").head("linear", 0)
    assert counts.total == plain + planned.lora + (in_head_update and in_head_update - output)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(list(CONFIGS)),
    head=st.sampled_from(HEADS),
    budget=st.integers(1000, 3_000_000),
    data=st.data(),
)
def test_the_largest_rank_fits_and_the_next_does_not(kind: str, head: str, budget: int, data: st.DataObject) -> None:
    targets = data.draw(st.sampled_from(TARGET_SETS))
    planner = Planner(CONFIGS[kind], 4, kind)
    largest = planner.largest_rank(targets, head, budget)
    assert not planner.plan(targets, head, largest + 1, budget).fits
    if largest:
        assert planner.plan(targets, head, largest, budget).fits


def test_plans_are_sorted_and_hold_each_set_head_and_rank_once() -> None:
    plans = Planner(load_config("roberta-base"), 4, "roberta-base").plans(1_000_000)
    keys = [(plan.targets, plan.head, plan.r) for plan in plans]
    assert len(set(keys)) == len(keys)
    assert {(t, h, r) for t in TARGET_SETS for h in HEADS for r in RANKS} <= set(keys)
    fitting = [plan.trainable for plan in plans if plan.fits]
    over = [plan.trainable for plan in plans if not plan.fits]
    assert [plan.fits for plan in plans] == [True] * len(fitting) + [False] * len(over)
    assert fitting == sorted(fitting, reverse=True)
    assert over == sorted(over)
    assert as_rows(plans)[0]["targets"] == list(plans[0].targets)
    assert as_rows(plans)[0]["trainable"] == plans[0].trainable


@pytest.mark.parametrize("budget", [100, 700, 20_000])
def test_plans_hold_the_ranks_asked_for_and_the_greatest_that_fits(budget: int) -> None:
    planner = Planner(small_config("roberta", layers=2, head_size=4, heads=3, inner=20), 4, "it")
    found = {(targets, head): set[int]() for targets in TARGET_SETS for head in HEADS}
    for plan in planner.plans(budget, ranks=(3, 5)):
        assert plan == planner.plan(plan.targets, plan.head, plan.r, budget)
        found[plan.targets, plan.head].add(plan.r)
    for (targets, head), ranks in found.items():
        best = max((r for r in ranks if planner.plan(targets, head, r, budget).fits), default=0)
        assert not planner.plan(targets, head, best + 1, budget).fits
        assert ranks == {3, 5} | {best} - {0}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("dora", "spare"), [(True, -1), (False, 0)])
def test_the_plan_of_whole_settings(head: str, dora: bool, spare: int) -> None:
    config = small_config("bert", layers=2, head_size=4, heads=3, inner=20)
    lora = LoraConfig(targets=("query", "intermediate"), r=3, ranks={"query": 5}, dora=dora)
    span = 2 * (5 * (12 + 12) + 3 * (12 + 20)) + dora * 2 * (12 + 20)  # r · (in + out), and DoRA's magnitudes
    in_head = {"linear": 4 * 12 + 4, "lora": 4 * 12 + 4 + 3 * 24, "full": 4 * 12 + 4 + 12 * 12 + 12}[head]
    budget = span + in_head + spare
    plan = Planner(config, 4, "it").settings(lora.model_copy(update={"budget": budget}), head)
    assert (plan.targets, plan.head, plan.r) == (lora.targets, head, 3)
    assert (plan.lora, plan.head_parameters, plan.trainable) == (span, in_head, span + in_head)
    assert (plan.share, plan.fits) == ((span + in_head) / budget, spare == 0)
    plain = Planner(config, 4, "it").plan(lora.targets, head, 3, lora.budget)
    assert plain.lora == 2 * 3 * (24 + 32)
    assert plain.share == plain.trainable / lora.budget


def test_a_planner_needs_an_encoder_and_names_what_it_was_given() -> None:
    with pytest.raises(NewsloraError, match=r"^some/decoder: a 'gpt2' model is not an encoder"):
        Planner(AutoConfig.for_model("gpt2"), 4, "some/decoder")


def test_a_model_without_weights_has_the_labels_asked_for() -> None:
    model = meta_model(small_config("bert", layers=1, head_size=4, heads=1, inner=3), 7)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model.get_parameter("classifier.weight").shape == (7, 4)


@pytest.mark.parametrize("kind", ["roberta", "bert"])
@pytest.mark.parametrize("head", HEADS)
def test_the_refusal_names_configurations_that_fit_when_built(kind: str, head: str) -> None:
    config = small_config(kind, layers=2, head_size=4, heads=3, inner=20)
    lora = LoraConfig(targets=("query", "output"), r=12, budget=800)
    with pytest.raises(NewsloraError) as caught:
        check_budget(built(config, 4, lora, head), config, ModelConfig(head=head), lora, 4)
    message = str(caught.value)
    assert message.startswith("lora.budget: this configuration trains ")
    assert "\n" not in message
    offers = re.findall(r"--lora\.r (\d+) --model\.head (\w+) \(([\d,]+)\)", message)
    assert offers
    for r, mode, trainable in offers:
        model = built(config, 4, lora.model_copy(update={"r": int(r)}), mode)
        assert count(model).trainable == int(trainable.replace(",", "")) <= lora.budget


def test_the_refusal_offers_the_greatest_rank_with_the_same_head_first() -> None:
    config = small_config("roberta", layers=2, head_size=4, heads=3, inner=20)
    lora = LoraConfig(targets=("query", "output"), r=12, budget=800)
    best = Planner(config, 4, "it").largest_rank(("query", "output"), "full", 800)
    with pytest.raises(NewsloraError, match=rf"nearest that fit: --lora\.r {best} --model\.head full"):
        check_budget(built(config, 4, lora, "full"), config, ModelConfig(head="full"), lora, 4)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("least", [1, 2])
def test_the_refusal_word_for_word(head: str, least: int) -> None:
    config = small_config("roberta", layers=2, head_size=4, heads=3, inner=20)
    lora = LoraConfig(targets=("query", "output"), r=12)
    counted = {
        mode: [count(built(config, 4, lora.model_copy(update={"r": r}), mode)).trainable for r in range(1, 13)]
        for mode in HEADS
    }
    lora = lora.model_copy(update={"budget": counted[head][least - 1]})
    greatest = {mode: sum(number <= lora.budget for number in numbers) for mode, numbers in counted.items()}
    offers = [
        f"--lora.r {greatest[mode]} --model.head {mode} ({counted[mode][greatest[mode] - 1]:,})"
        for mode in sorted(HEADS, key=lambda mode: mode != head)
        if greatest[mode]
    ]
    with pytest.raises(NewsloraError) as caught:
        check_budget(built(config, 4, lora, head), config, ModelConfig(head=head), lora, 4)
    trains = f"this configuration trains {counted[head][11]:,} parameters, over the budget of {lora.budget:,}"
    assert str(caught.value) == f"lora.budget: {trains}; nearest that fit: {'; '.join(offers)}"
    assert greatest[head] == least


def test_a_budget_that_nothing_fits_asks_for_fewer_targets() -> None:
    config = small_config("bert", layers=2, head_size=4, heads=3, inner=20)
    lora = LoraConfig(targets=("all-linear",), budget=60)
    with pytest.raises(NewsloraError, match=r"budget of 60; no rank fits these targets; give fewer targets$"):
        check_budget(built(config, 4, lora, "linear"), config, ModelConfig(head="linear"), lora, 4)


def test_a_budget_met_exactly_is_within() -> None:
    config = small_config("bert", layers=1, head_size=4, heads=3, inner=20)
    model = built(config, 4, LoraConfig(), "linear")
    check_budget(model, config, ModelConfig(head="linear"), LoraConfig(budget=count(model).trainable), 4)
