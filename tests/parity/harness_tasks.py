"""Tasks and a model that lm-evaluation-harness and we measure: bigrams of bytes with positions."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

CONTEXT, VOCABULARY, END = 16, 257, 256
TABLE = np.random.default_rng(5).normal(size=(VOCABULARY, VOCABULARY)).astype(np.float32)
DOCUMENTS = [
    "Emoji 😀 and e\u0301, flags 🇯🇵.\n",
    "日本語の文書、かなと漢字。",
    "",
    "  A text that is much longer than the context of sixteen bytes,\n\n with  spaces at its end. ",
    "x" * CONTEXT,
    "one",
]
_WORDS = ("up", "to", "sea", "dune", "river", "空", "海と", "a b", "é")
QUESTIONS = [
    {
        "context": f"{text} {n} is{' ' * (n % 3)}",
        "choices": [_WORDS[(n + step * (n % 4 + 1)) % len(_WORDS)] for step in range(3)],
        "answer": n % 3,
    }
    for n, text in enumerate(["The cat", "猫", "A dog", "Every 😀", "This", "That"] * 8)
]


def logits(inputs: Any, positions: Any) -> Any:
    """Returns logits [T, V] of tokens [T], which depend on the token and on its position."""
    return TABLE[inputs] * (1 + np.asarray(positions)[..., None] / 40)


def run_harness(model: Any, directory: Path) -> dict[str, float]:
    """Returns what lm-evaluation-harness reports of the documents and the questions."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    os.environ["HF_HUB_OFFLINE"] = "1"
    common = {"dataset_path": "json", "test_split": "test"}
    tasks = {
        "documents": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [
                {"metric": m} for m in ("word_perplexity", "byte_perplexity", "bits_per_byte")
            ],
        },
        "questions": {
            "output_type": "multiple_choice",
            "doc_to_text": "{{context}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{answer}}",
            "metric_list": [{"metric": m} for m in ("acc", "acc_norm", "acc_bytes")],
        },
    }
    rows = {"documents": [{"text": text} for text in DOCUMENTS], "questions": QUESTIONS}
    for name, task in tasks.items():
        data = directory / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
        files = {"dataset_kwargs": {"data_files": {"test": str(data)}}}
        config = {"task": f"lm_jax_{name}"} | common | files | task
        (directory / f"{name}.yaml").write_text(json.dumps(config))  # JSON is YAML
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=[f"lm_jax_{name}" for name in tasks],
        task_manager=TaskManager(include_path=str(directory), include_defaults=False),
        bootstrap_iters=0,
    )
    results: dict[str, float] = {}
    for figures in found["results"].values():
        values = {name.partition(",")[0]: value for name, value in figures.items()}
        results |= {n: v for n, v in values.items() if isinstance(v, float) and "stderr" not in n}
    return results


def numpy_model() -> Any:
    """Returns the bigrams as a model of the harness, in NumPy alone."""
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM

    class Bigrams(TemplateLM):
        eot_token_id = END
        tokenizer_name = "bytes"

        def tok_encode(self, string, add_special_tokens=None, **kwargs):
            return list(string.encode())

        def _loglikelihood_tokens(self, requests, **kwargs):
            found = []
            for _, context, continuation in requests:
                tokens = np.array([*context, *continuation])[-CONTEXT - 1 :]
                scores = logits(tokens[:-1], np.arange(len(tokens) - 1)).astype(np.float64)
                log_p = scores - np.log(np.exp(scores).sum(1, keepdims=True))
                counted = np.arange(len(tokens) - 1)[-len(continuation) :]
                nats = log_p[counted, tokens[1:][counted]]
                greedy = (log_p.argmax(1) == tokens[1:])[counted].all()
                found.append((float(nats.sum()), bool(greedy)))
            return found

        def loglikelihood_rolling(self, requests, disable_tqdm=False):
            totals = []
            for request in requests:
                windows = utils.get_rolling_token_windows(
                    self.tok_encode(request.args[0]), END, CONTEXT, context_len=1
                )
                pairs = [(None, *utils.make_disjoint_window(window)) for window in windows]
                totals.append(sum(nats for nats, _ in self._loglikelihood_tokens(pairs)))
            return totals

        def generate_until(self, requests, disable_tqdm=False):
            raise NotImplementedError

    return Bigrams()
