"""Finds nearest words and analogies in the word vectors of a run, and measures the vectors.

  python -m launch.word_vectors --workdir=runs/word2vec --plus=king,woman --minus=man
  python -m launch.word_vectors --workdir=runs/word2vec --plus=river
  python -m launch.word_vectors --workdir=runs/word2vec --similarities=wordsim353.tsv \
      --analogies=questions-words.txt

Prints the words nearest to the sum of --plus minus the sum of --minus. What --similarities and
--analogies measure also goes to word_vectors.json and to the page of the run. The last line of the
output is JSON with the answers.
"""

from pathlib import Path
from typing import Any

from absl import flags

from launch import program
from lm_jax.errors import UserError

WORKDIR = flags.DEFINE_string("workdir", None, "The work directory of the run.", required=True)
PLUS = flags.DEFINE_list("plus", [], "Words to add, comma-separated.")
MINUS = flags.DEFINE_list("minus", [], "Words to subtract, comma-separated.")
COUNT = flags.DEFINE_integer("count", 10, "Number of nearest words to list.", lower_bound=1)
SIMILARITIES = flags.DEFINE_string("similarities", None, "A file of lines word<TAB>word<TAB>score.")
ANALOGIES = flags.DEFINE_string("analogies", None, "A file of analogies, four words a line.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "last", "last, best, or a step.")


def main() -> dict[str, Any]:
    """Prints each answer, then returns them."""
    from lm_jax.evaluation import word_vectors
    from lm_jax.reports.numbers import with_error
    from lm_jax.runs.evaluate import vectors_of_words
    from lm_jax.runs.page import add_word_vector_scores
    from lm_jax.runs.trained_run import load

    run = load(Path(WORKDIR.value), CHECKPOINT.value, log=program.log)
    vectors = vectors_of_words(run)
    results: dict[str, Any] = {"workdir": WORKDIR.value, "step": run.step}
    scores: dict[str, Any] = {}
    if PLUS.value:
        near = word_vectors.nearest(vectors, PLUS.value, MINUS.value, COUNT.value)
        for word, cosine in near:
            program.log(f"{cosine:6.3f}  {repr(word)[1:-1]}")  # a line end is a word, too
        results["nearest"] = [word for word, _ in near]
    if SIMILARITIES.value:
        path = Path(SIMILARITIES.value)
        correlation, asked, count = word_vectors.similarity_correlation(vectors, path)
        error = word_vectors.correlation_standard_error(correlation, asked)
        shown = with_error(correlation, error, ".3f")
        program.log(f"{path.name}: Spearman's correlation {shown}, {asked} of {count}")
        results["similarity"] = {"spearman": correlation, "pairs": asked, "of": count}
        scores["similarities"] = {path.name: results["similarity"]}
    if ANALOGIES.value:
        path = Path(ANALOGIES.value)
        sections = word_vectors.analogy_accuracy(vectors, path)
        for name, (right, asked, _) in sections.items():
            program.log(f"{right:6} of {asked:6}  {name}")
        right, asked, count = map(sum, zip(*sections.values() or [(0, 0, 0)], strict=True))
        program.log(f"{right:6} of {asked:6}  all")
        results["analogies"] = {"right": right, "asked": asked, "of": count}
        scores["analogies"] = {path.name: results["analogies"]}
    if scores:
        add_word_vector_scores(run, scores)
    if len(results) == 2:
        raise UserError("give --plus=WORD,WORD, --similarities=FILE or --analogies=FILE")
    return results


if __name__ == "__main__":
    program.run(main)
