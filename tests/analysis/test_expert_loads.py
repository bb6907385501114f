"""The load of experts in the report."""

from lm_jax.reports.sections import analysis_sections


def test_a_table_shows_the_share_of_each_expert_and_the_largest_load():
    loads = {"encoder": [[30, 10, 0, 0]], "decoder": [[5, 5, 5, 5], [0, 0, 0, 0]]}
    page = str(analysis_sections({"expert_loads": loads})["Expert load"])
    for text in ("encoder layer 1", ">75.0<", ">25.0<", ">3.00<", ">1.00<", "decoder layer 2"):
        assert text in page, text
    assert not analysis_sections({})["Expert load"]
