"""Queries can only name what is emitted, and mean what they say."""

from __future__ import annotations

import pytest

from fastobs import catalogue, promql
from fastobs.catalogue import HTTP_ACTIVE, HTTP_DURATION, HTTP_PART, LOOP_LAG, POOL_COUNT


def test_a_selector_names_metric_and_matchers():
    """Matchers are joined as PromQL joins them."""
    actual = promql.select(POOL_COUNT, 'job="shop"', 'worker!="0"')

    assert actual == 'db_client_connection_count{job="shop", worker!="0"}'


def test_a_selector_without_matchers_is_the_name():
    """No empty braces."""
    assert promql.select(POOL_COUNT) == "db_client_connection_count"


@pytest.mark.parametrize("operator", ["=", "!=", "=~", "!~"])
def test_every_operator_of_a_matcher_is_understood(operator):
    """The label is what stands before any of the four operators."""
    assert operator in promql.select(HTTP_ACTIVE, f'http_request_method{operator}"GET"')


@pytest.mark.parametrize("matcher", ['route="/"', 'le="0.1"', "nonsense"])
def test_an_unknown_label_is_an_error_while_the_query_is_built(matcher):
    """A typing error cannot become an empty panel."""
    with pytest.raises(ValueError, match="has no label"):
        promql.select(HTTP_DURATION, matcher)


def test_worker_is_a_label_of_what_is_shown_per_worker():
    """The label that the exposition adds is known, where it is added."""
    assert promql.gauge(POOL_COUNT, 'worker="0"')
    with pytest.raises(ValueError, match="has no label 'worker'"):
        promql.gauge(HTTP_ACTIVE, 'worker="0"')


def test_the_value_of_a_counter_is_not_asked_for():
    """Its rate is what means something."""
    with pytest.raises(ValueError, match="is a counter"):
        promql.gauge(HTTP_PART)


def test_a_rate_is_that_of_events():
    """Of a histogram it is the count's, or the sum's where that is meant."""
    window = promql.WINDOW

    assert promql.rate(HTTP_PART) == f"rate(fastobs_request_part_seconds_total[{window}])"
    assert (
        promql.rate(HTTP_DURATION, window="5m")
        == "rate(http_server_request_duration_seconds_count[5m])"
    )
    assert (
        promql.rate(HTTP_DURATION, window="5m", of="sum", ago="1d")
        == "rate(http_server_request_duration_seconds_sum[5m] offset 1d)"
    )


def test_an_increase_counts_events():
    """Within the window."""
    actual = promql.increase(HTTP_PART, 'part="db"', window="1h")

    assert actual == 'increase(fastobs_request_part_seconds_total{part="db"}[1h])'


@pytest.mark.parametrize("function", [promql.rate, promql.increase])
def test_a_gauge_has_no_rate(function):
    """It may fall, which rate() takes for a restart."""
    with pytest.raises(ValueError, match="is a gauge"):
        function(HTTP_ACTIVE)


def test_a_histogram_has_a_count_and_a_sum():
    """And nothing else to take the rate of."""
    with pytest.raises(ValueError, match="of='mean'"):
        promql.rate(HTTP_DURATION, of="mean")


def test_the_course_of_a_gauge():
    """Functions over time are for gauges."""
    actual = promql.over("max_over_time", HTTP_ACTIVE, window="5m")

    assert actual == "max_over_time(http_server_active_requests[5m])"


def test_a_gauges_course_has_no_rate():
    """rate() cannot slip in as a function over time."""
    with pytest.raises(ValueError, match="for counters"):
        promql.over("rate", HTTP_ACTIVE)


def test_a_bucket_counts_what_was_at_most_its_bound():
    """A bound that is not whole is spelled in one way only."""
    actual = promql.bucket(HTTP_DURATION, 0.2, window="5m")

    assert actual == 'rate(http_server_request_duration_seconds_bucket{le="0.2"}[5m])'


def test_a_whole_bound_is_spelled_in_two_ways():
    """Prometheus 3 writes le="1.0" where Prometheus 2 kept le="1"."""
    actual = promql.bucket(HTTP_DURATION, 1.0, window="5m")

    assert actual == r'rate(http_server_request_duration_seconds_bucket{le=~"1(\\.0)?"}[5m])'


def test_a_bound_must_be_a_bucket():
    """Otherwise the result would be empty for ever."""
    with pytest.raises(ValueError, match="is no bucket"):
        promql.bucket(HTTP_DURATION, 0.21)


def test_a_quantile_keeps_the_labels_that_are_asked_for():
    """le is added; everything else is summed first; NaN is left out."""
    actual = promql.quantile(0.99, HTTP_DURATION, by=["job"], window="5m", ago="1d")

    assert actual == (
        "histogram_quantile(0.99, sum by (job, le) "
        "(rate(http_server_request_duration_seconds_bucket[5m] offset 1d))) >= 0"
    )


@pytest.mark.parametrize("function", [promql.buckets, lambda metric: promql.quantile(0.5, metric)])
def test_only_a_histogram_has_buckets(function):
    """A quantile of a counter means nothing."""
    with pytest.raises(ValueError, match="not a histogram"):
        function(HTTP_PART)


def test_a_quantile_is_not_grouped_by_a_label_that_is_not_there():
    """The typing error is found in the grouping, too."""
    with pytest.raises(ValueError, match="has no label 'route'"):
        promql.quantile(0.5, HTTP_DURATION, by=["route"])


def test_an_average_is_a_gap_without_observations():
    """Not NaN."""
    actual = promql.average(LOOP_LAG, by=["job"], window="5m")

    assert actual == (
        "sum by (job) (rate(fastobs_event_loop_lag_seconds_sum[5m]))"
        " / (sum by (job) (rate(fastobs_event_loop_lag_seconds_count[5m])) > 0)"
    )


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (promql.total, "sum"),
        (promql.largest, "max"),
        (promql.smallest, "min"),
        (promql.count, "count"),
        (promql.present, "group"),
    ],
)
def test_aggregations_keep_only_what_is_named(function, operator):
    """By labels, or to a single number."""
    assert function("x", by=["job", "worker"]) == f"{operator} by (job, worker) (x)"
    assert function("x") == f"{operator}(x)"


def test_top_keeps_the_largest():
    """At each moment anew."""
    assert promql.top(10, "x") == "topk(10, x)"


def test_an_empty_label_gets_a_word():
    """Requests that matched no route have an empty one."""
    actual = promql.named("x", "http_route", empty="(no route)")

    assert actual == 'label_replace(x, "http_route", "(no route)", "http_route", "")'


def test_nothing_counts_as_zero():
    """Plainly, or with the labels of something that is there."""
    assert promql.or_zero("x") == "(x or vector(0))"
    assert promql.or_zero("x", like="y") == "(x or 0 * y)"


def test_a_ratio_is_a_gap_while_nothing_happens():
    """Not NaN."""
    assert promql.ratio("x", "y") == "x / (y > 0)"


def test_what_prometheus_adds_is_not_in_our_catalogue():
    """`up` and its like can be asked for, and nobody expects fastobs to emit them."""
    assert promql.gauge(promql.UP, 'job="shop"') == 'up{job="shop"}'
    assert set(promql.PROMETHEUS).isdisjoint(catalogue.CATALOGUE)
