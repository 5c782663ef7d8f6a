import pytest
import torch
from safetensors.torch import load, save
from tiny import TinyModel, make_config, make_data
from torch.amp.grad_scaler import GradScaler

from newslora.errors import NewsloraError
from newslora.training.schedule import build_optimizer
from newslora.training.snapshot import Live, load_trainable, pack, read_document, trainable_tensors, unpack
from newslora.training.state import Document, Generators, Identity, TrainingState


def live(seed: int, steps: int) -> Live:
    model = TinyModel(seed)
    optimizer = build_optimizer(model.trainable_parameters(), make_config().train)
    for _ in range(steps):
        for parameter in model.trainable_parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return Live(model, optimizer, GradScaler("cpu", init_scale=2.0 ** (3 + steps)))


def document(scaler: GradScaler | None) -> Document:
    identity = Identity.of(make_config(), make_data(), 1)
    generators = [Generators.capture(torch.device("cpu"))]
    state = scaler.state_dict() if scaler else None
    return Document(identity=identity, state=TrainingState(step=3), generators=generators, scaler=state)


def test_what_is_packed_goes_on_alike_in_fresh_objects() -> None:
    old, new = live(0, steps=3), live(5, steps=0)
    best = {"out.bias": torch.ones(3)}
    files = pack(old, document(old.scaler), best)
    assert read_document(files) == document(old.scaler)
    torch.testing.assert_close(unpack(files, new, read_document(files)), best)
    assert old.scaler is not None
    assert new.scaler is not None
    assert new.scaler.state_dict() == old.scaler.state_dict()
    for parts in (old, new):
        for parameter in parts.model.parameters():
            parameter.grad = torch.full_like(parameter, 0.25) if parameter.requires_grad else None
        parts.optimizer.step()
    for was, now in zip(trainable_tensors(old.model).values(), trainable_tensors(new.model).values(), strict=True):
        assert torch.equal(was, now)


def test_eight_bit_moments_go_on_alike_in_fresh_objects() -> None:
    def start() -> Live:
        torch.manual_seed(0)
        model = torch.nn.Linear(128, 64)
        return Live(model, build_optimizer(model.parameters(), make_config(optimizer="adamw8bit").train), None)

    def step(parts: Live, seed: int) -> None:
        torch.manual_seed(seed)
        for parameter in parts.model.parameters():
            parameter.grad = torch.randn_like(parameter)
        parts.optimizer.step()

    old, new = start(), start()
    for seed in range(3):
        step(old, seed)
    files = pack(old, document(None), {})
    assert load(files["optimizer.safetensors"])["0.state1"].dtype == torch.uint8
    unpack(files, new, document(None))
    for seed in (3, 4):
        step(old, seed), step(new, seed)
    for was, now in zip(old.model.parameters(), new.model.parameters(), strict=True):
        assert torch.equal(was, now)


def test_nothing_packed_is_a_pickle_and_frozen_tensors_stay_out() -> None:
    files = pack(live(0, 1), document(None), {})
    assert sorted(files) == ["best.safetensors", "optimizer.safetensors", "state.json", "trainable.safetensors"]
    assert not any(content.startswith((b"PK", b"\x80")) for content in files.values())
    assert sorted(load(files["trainable.safetensors"])) == sorted(trainable_tensors(TinyModel()))
    assert "embedding.weight" not in load(files["trainable.safetensors"])


def test_before_the_first_step_there_are_no_moments() -> None:
    fresh = live(0, 0)
    assert unpack(pack(fresh, document(None), {}), live(1, 0), document(None)) == {}


def test_trainable_tensors_are_a_copy() -> None:
    model = TinyModel()
    kept = trainable_tensors(model)
    with torch.no_grad():
        model.out.bias.add_(1.0)
    assert not torch.equal(kept["out.bias"], model.out.bias)
    load_trainable(model, kept)
    assert torch.equal(kept["out.bias"], model.out.bias)


@pytest.mark.parametrize("change", [lambda t: t.pop("out.bias"), lambda t: t.update({"out.bias": torch.ones(9)})])
def test_tensors_that_do_not_fit_are_named_before_any_is_set(change: object) -> None:
    model = TinyModel()
    before = trainable_tensors(model)
    tensors = {name: tensor + 1 for name, tensor in before.items()}
    change(tensors)  # type: ignore[operator]
    with pytest.raises(NewsloraError, match=r"does not fit the model: out\.bias differs"):
        load_trainable(model, tensors)
    torch.testing.assert_close(trainable_tensors(model), before)


@pytest.mark.parametrize("content", [b"{}", b"[", b'{"version": 2}'])
def test_a_foreign_document_is_refused(content: bytes) -> None:
    with pytest.raises(
        NewsloraError, match=r"^state\.json of the checkpoint does not fit this version of newslora; train anew$"
    ):
        read_document({"state.json": content, "best.safetensors": save({})})
