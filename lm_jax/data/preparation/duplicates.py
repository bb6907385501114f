"""Documents that another one repeats: exactly, or nearly, by MinHash."""

from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
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
)
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import TextNormConfig

from lm_jax.data.preparation.documents import KEPT, Dropped
from lm_jax.data.preparation.plan import Plan
from lm_jax.data.preparation.sealed_files import SealedFolder
from lm_jax.data.preparation.shingles import Signatures
from lm_jax.data.preparation.words import WORDS


def text_of(document: Document) -> str:
    """Returns what two equal documents share."""
    return document.text.strip()


def add_exact_duplicates(plan: Plan) -> None:
    """Drops all copies of a document but one; white space around a text does not count."""
    config = ExactDedupConfig(content_getter=text_of)
    signatures, found = plan.folder("exact_signatures"), plan.folder("exact_duplicates")
    documents = plan.stored()
    sign = ExactDedupSignature(signatures, finder_workers=plan.finders, config=config)
    plan.phase("exact_signatures", [*documents, sign])
    find = ExactFindDedups(signatures, found, config, lines_to_buffer=1000)
    plan.phase("exact_duplicates", [find], tasks=plan.finders)
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
    sign = Signatures(signatures, minhash, language=words)
    plan.phase("near_signatures", [*documents, sign])
    find = MinhashDedupBuckets(signatures, pairs, config=minhash, lines_to_buffer=1000)
    plan.phase("near_pairs", [find], tasks=threshold.bands)
    cluster = MinhashDedupCluster(
        pairs,
        clusters,
        minhash,
        save_cluster_id=True,
        save_cluster_size=True,
        lines_to_buffer=1000,
    )
    plan.phase("near_clusters", [cluster, CompleteClusters(clusters, config.tasks)], tasks=1)
    dropped = plan.dropped("near_duplicates")
    plan.add(MinhashDedupFilter(clusters, dropped, load_cluster_ids=True, load_cluster_sizes=True))
    plan.add(KeptOfClusters(plan.dropped(KEPT)))


class CompleteClusters(PipelineStep):
    """Writes empty files for tasks of which no document is dropped, so that none is left out."""

    type, name = "CLUSTERS", "complete"

    def __init__(self, folder: SealedFolder, tasks: int):
        super().__init__()
        self.folder, self.tasks = folder, tasks

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Writes the files that are missing."""
        for task in range(self.tasks):
            for suffix in ("remove", "clusters", "sizes"):
                if not self.folder.exists(f"{task:06d}.{suffix}"):
                    self.folder.open(f"{task:06d}.{suffix}", "wb").close()


class KeptOfClusters(PipelineStep):
    """Notes the document that is kept of each cluster, and passes all on."""

    type, name = "CLUSTERS", "kept"

    def __init__(self, kept: Dropped):
        super().__init__()
        self.kept = kept

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """Yields what it is given."""
        with self.kept as kept:
            for document in data:
                if document.metadata["minhash_cluster_size"] > 1:
                    kept.write(document, rank)
                yield document
