"""A review says what gaps, categories and dates count as."""

from blindsum.pipelines.consortium.review_features import feature_lines
from blindsum.platform.job.features_section import Columns
from tests.platform.test_gaps_and_categories import MIXED


def test_a_review_says_what_gaps_and_categories_count_as() -> None:
    found = dict(feature_lines(Columns.model_validate({"kind": "columns", "columns": MIXED})))
    assert found == {
        "categories": ["sex (m, f)", "stage (1, 2, 3, other)", "smoker (true, false)"],
        "dates": ["seen (days since 2020-01-01)"],
        "gaps count as": [
            "age (50 and a feature of its own; also -9)",
            "sex (a feature of its own)",
            "stage (2)",
            "smoker (false)",
            "seen (2020-01-31)",
        ],
    }


def test_a_review_of_plain_columns_is_as_before() -> None:
    plain = Columns.model_validate({"kind": "columns", "columns": {"x": {}}})
    assert dict(feature_lines(plain)) == {}
