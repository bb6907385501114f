"""Every contract that a model can break is caught by its check, and only a broken one is."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from launch import check_model as program
from lm_jax.analysis import model_checks
from lm_jax.analysis.model_checks import CHECKS, check_model
from lm_jax.config.experiment import Experiment
from lm_jax.errors import UserError
from lm_jax.models import Family, Model
from lm_jax.models.interface import Auxiliary, cross_entropy
from lm_jax.models.ngram.model import NgramConfig
from lm_jax.models.parameters import Declared
from lm_jax.objectives.default_experiment import default_experiment


@dataclasses.dataclass
class ToyConfig:
    """The average of the embeddings of a document so far, through a matrix."""

    vocab_size: int = 0
    context_length: int = 8
    d_model: int = 4
    fault: str = ""

    def validate(self):
        pass


def toy(config: ToyConfig, dtype) -> Model:
    fault, v, d = config.fault, config.vocab_size, config.d_model

    def init(key, batch):
        keys = jax.random.split(key)
        axes = {"missing axis": ("embed",), "unknown axis": ("embed", "words")}
        output = jax.random.normal(keys[1], (d, v))
        params = {
            "embedding": Declared(
                jax.random.normal(keys[0], (v, d)),
                ("vocab", "embed"),
                looked_up=fault != "no table",
            ),
            "output": Declared(output, axes.get(fault, ("embed", "vocab")), summed=(-2,)),
        }
        if fault == "undeclared":
            params["output"] = output
        if fault in ("unused", "auxiliary"):
            params["idle"] = Declared(jnp.ones(3), ("embed",))
        return {"params": params}

    def logits_of(params, h):
        kind = jnp.float32 if fault == "no dtype" else dtype
        logits = jnp.asarray(h, kind) @ params["output"].astype(kind)
        return logits if fault == "half logits" else logits.astype(jnp.float32)

    def apply(variables, batch, *, train, key=None):
        params, tokens, segments = variables["params"], batch["inputs"], batch["segments"]
        x = params["embedding"][tokens]
        index = jnp.arange(tokens.shape[1])
        seen = index[None, :, None] >= index[None, None]
        if fault != "one segment":
            seen &= segments[:, :, None] == segments[:, None]
        if fault == "blind":
            seen &= index[None, :, None] > index[None, None]
        weights = seen / jnp.maximum(seen.sum(axis=2, keepdims=True), 1)
        h = jnp.einsum("bts,bsd->btd", weights, x)
        if fault in ("leak", "no table"):
            h += 1e-5 * jnp.roll(x, -1, axis=1) * (index < len(index) - 1)[:, None]
        if fault == "padding":
            h += 0.1 * x.mean(axis=1, keepdims=True)
        if fault == "rows":
            h -= h.mean(axis=0)
        if fault == "dropout":
            h *= jax.random.bernoulli(key, 0.5, h.shape)
        if fault == "raises":
            h = h + jnp.ones((3, 5, 7))
        return logits_of(params, h), {}

    def loss(variables, batch, *, train, key=None):
        logits, statistics = apply(variables, batch, train=train, key=key)
        losses = cross_entropy(logits * (2 if fault == "loss" else 1), batch["targets"])
        values = {
            "auxiliary": lambda: Auxiliary(jnp.mean(variables["params"]["idle"] ** 2), 0.1),
            "bare auxiliary": lambda: jnp.zeros(()),
            "shape of auxiliary": lambda: Auxiliary(jnp.zeros(3), 0.1),
        }
        if fault in values:
            losses = losses._replace(auxiliary={"penalty": values[fault]()})
        return losses, statistics

    def start(variables, batch_size, max_length):
        return jnp.zeros((batch_size, d), dtype), jnp.zeros(batch_size, jnp.int32)

    def step(variables, carry, tokens):
        total, count = carry
        total = total + variables["params"]["embedding"][tokens].astype(total.dtype)
        count = count + (2 if fault == "step" else 1)
        logits = logits_of(variables["params"], total / count[:, None])
        return logits, (total.astype(jnp.float32 if fault == "carry" else dtype), count)

    return Model(init, apply, loss, start, step)


FAMILY = Family(
    ToyConfig,
    toy,
    widths=lambda config: ("d_modle",) if config.fault == "widths" else ("d_model",),
)


def experiment(fault=""):
    return Experiment(model=ToyConfig(fault=fault))


def test_a_sound_model_passes_every_check():
    checks = check_model(experiment())
    assert [check.name for check in checks] == ["init and apply", *CHECKS]
    assert all(check.ok for check in checks), checks
    found = {check.name: check.text for check in checks}
    assert found["causality"] == "by gradient, 8 positions"
    assert found["segments"] == "documents of 3 and 3 tokens in a row do not see each other"


@pytest.mark.parametrize(
    ("fault", "name", "message"),
    [
        ("missing axis", "logical axes", "parameter output has 1 logical axes (embed) for its sh"),
        ("unknown axis", "logical axes", "output has the logical axis 'words'; expected one of"),
        ("undeclared", "logical axes", "parameter output is not declared"),
        ("widths", "family", "widths names 'd_modle', which is no field"),
        ("half logits", "dtype", "built in bfloat16, the logits are bfloat16; expected float32"),
        ("no dtype", "dtype", "built in bfloat16, nothing is computed in bfloat16"),
        ("carry", "dtype", "a step turns 0 of the carry from bfloat16 [2, 4] into float32 [2, 4]"),
        ("dropout", "determinism", "with train=False the logits depend on the key"),
        ("rows", "rows", "changing row 1 moves the logits of row 0 by "),
        ("loss", "loss", "nats differ from the cross-entropy of the logits of apply by "),
        ("unused", "loss", "the gradient of parameter idle is 0: it is not used"),
        ("bare auxiliary", "loss", "the auxiliary loss penalty is a "),
        ("shape of auxiliary", "loss", "an auxiliary loss or metric has shape (3,); expected"),
        ("step", "step", "step: the logits at position 0 differ from those of apply by "),
        ("leak", "causality", "the logits at position 0 depend on the later token 1 (gradient "),
        ("no table", "causality", "depend on the later token 1 (change of a token "),
        ("blind", "causality", "the logits at position 0 do not depend on the token there"),
        (
            "padding",
            "padding",
            "changing the padding (segment 0) moves the logits at position 0 by",
        ),
        (
            "one segment",
            "segments",
            "changing segment 1 moves the logits of segment 2 at position ",
        ),
        ("raises", "init and apply", "TypeError: "),
    ],
)
def test_a_fault_is_found_by_its_check(fault, name, message, monkeypatch):
    chosen = {name: CHECKS[name]} if name in CHECKS else {}
    monkeypatch.setattr(model_checks, "CHECKS", chosen)
    found = check_model(experiment(fault))[-1]
    assert (found.name, found.ok) == (name, False)
    assert message in found.text


def test_a_parameter_may_serve_an_auxiliary_loss_alone(monkeypatch):
    monkeypatch.setattr(model_checks, "CHECKS", {"loss": CHECKS["loss"]})
    found = check_model(experiment("auxiliary"))[-1]
    assert found.ok and found.text.endswith("; also reported: penalty"), found


def test_a_vocabulary_of_another_name_is_told(monkeypatch):
    monkeypatch.setattr(model_checks, "CHECKS", {})

    @dataclasses.dataclass
    class Renamed:
        vocabulary: int = 0
        context_length: int = 8

    def init(key, batch):
        return {"params": {"table": jnp.zeros((0, 4))[batch["inputs"]]}}

    family = Family(Renamed, lambda config, dtype: Model(init, lambda *_, **__: None, lambda: None))
    monkeypatch.setattr(model_checks, "family_of", lambda config: family)
    monkeypatch.setattr(model_checks, "build_model", family.build)
    (found,) = check_model(Experiment(model=Renamed()))
    assert not found.ok and "no field vocab_size, which the tokenizer decides" in found.text


def test_a_fault_of_the_code_is_located(monkeypatch):
    monkeypatch.setattr(model_checks, "CHECKS", {})
    (found,) = check_model(experiment("raises"))
    lines = open(__file__).read().splitlines()
    number = 1 + next(n for n, line in enumerate(lines) if "jnp.ones((3, 5, 7))" in line)
    assert found.text.endswith(f"({__file__}:{number})")


def test_the_program_prints_a_line_a_check_and_fails_if_one_does(monkeypatch, capsys):
    chosen = {name: CHECKS[name] for name in ("logical axes", "family")}
    monkeypatch.setattr(model_checks, "CHECKS", chosen)
    monkeypatch.setattr(program, "CONFIG", SimpleNamespace(value="toy.py"))
    for fault, failed in (("", False), ("missing axis", True)):
        monkeypatch.setattr(program.experiment_flags, "experiment", lambda: experiment(fault))  # noqa: B023
        results = program.main()
        lines = capsys.readouterr().out.splitlines()
        assert [line.split("  ")[0] for line in lines] == ["init and apply", *chosen]
        assert results["failed"] == failed
        assert ("WRONG" in lines[1]) == failed
        assert results["checks"]["logical axes"]["ok"] == (not failed)


def test_a_model_that_counts_is_refused():
    with pytest.raises(UserError, match="fitted by counting"):
        check_model(default_experiment(NgramConfig()))
