"""Documents that another one repeats: exactly, or nearly, by MinHash."""

from datatrove.data import Document
from datatrove.pipeline.dedup.exact_dedup import (
    ExactDedupConfig,
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
)
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import TextNormConfig

from lm_jax.data.preparation.plan import Plan
from lm_jax.data.preparation.words import WORDS


def text_of(document: Document) -> str:
    """Returns what two equal documents share."""
    return document.text.strip()


def add_exact_duplicates(plan: Plan) -> None:
    """Drops all copies of a document but one; white space around a text does not count."""
    config = ExactDedupConfig(content_getter=text_of)
    signatures, found = plan.folder("exact_signatures"), plan.folder("exact_duplicates")
    documents = plan.stored()
    plan.phase("exact_signatures", [*documents, ExactDedupSignature(signatures, config)])
    plan.phase("exact_duplicates", [ExactFindDedups(signatures, found, config)], tasks=1)
    plan.add(ExactDedupFilter(found, config, plan.dropped("exact_duplicates")))


def add_near_duplicates(plan: Plan) -> None:
    """Drops all documents of a cluster of near duplicates but one.

    Case, punctuation and digits are left out of the comparison; duplicates of duplicates are one
    cluster.
    """
    config, threshold = plan.config, plan.config.near_duplicates
    minhash = MinhashConfig(
        n_grams=threshold.words,
        num_buckets=threshold.bands,
        hashes_per_bucket=threshold.rows,
        # Decomposing letters takes half of the time and finds nothing in one language.
        norm_config=TextNormConfig(norm_unicode_diacritics=False),
        hash_config=HashConfig(precision=64, hash_fc="xxhash"),
    )
    words = WORDS[config.language]
    signatures, pairs = plan.folder("near_signatures"), plan.folder("near_pairs")
    clusters = plan.folder("near_clusters")
    documents = plan.stored()
    plan.phase(
        "near_signatures", [*documents, MinhashDedupSignature(signatures, minhash, language=words)]
    )
    find = MinhashDedupBuckets(signatures, pairs, config=minhash, lines_to_buffer=1000)
    plan.phase("near_pairs", [find], tasks=threshold.bands)
    plan.phase(
        "near_clusters",
        [MinhashDedupCluster(pairs, clusters, minhash, lines_to_buffer=1000)],
        tasks=1,
    )
    plan.add(MinhashDedupFilter(clusters, plan.dropped("near_duplicates")))
