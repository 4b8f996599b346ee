"""The figures of the report, against numbers computed by hand."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from tests.lab.synthetic import curve, experiment, known, run, runs
from torchgraft.errors import LabError
from torchgraft.lab.analysis import Case, analyse, collect, compare, first_reach, frame, rows_of, run_lines
from torchgraft.lab.analysis.ablation import ablation
from torchgraft.lab.analysis.effects import Overall
from torchgraft.lab.analysis.similarity import bands, correlations, points
from torchgraft.lab.analysis.speed import speeds, summarize, times
from torchgraft.lab.analysis.statistics import (
    bootstrap,
    deviation,
    holm,
    paired_test,
    pearson,
    ratio,
    signed_rank,
    spearman,
)
from torchgraft.lab.records import Source
from torchgraft.lab.tasks import tasks_of


def test_effectiveness_is_a_ratio_of_means_with_the_spread_over_seeds() -> None:
    found = {effect.case: effect for effect in analyse(*known()).effects}
    effect = found[Case("graft", "a", "b")]
    assert effect.value == pytest.approx(1.6)
    assert effect.spread == pytest.approx(0.1)  # of 1.5, 1.7 and 1.6
    assert (effect.n, effect.n_random, effect.exploded) == (3, 3, 0)
    # Random has no noise here: variance of the logarithm 4 / (3 * 32²), two degrees of freedom, t = 4.302653.
    reach = 4.302653 * math.sqrt(4 / (3 * 32**2))
    assert effect.low == pytest.approx(1.6 * math.exp(-reach), rel=1e-5)
    assert effect.high == pytest.approx(1.6 * math.exp(reach), rel=1e-5)
    assert found[Case("dpiat", "b", "a")].value == pytest.approx(1.0)


def test_the_interval_holds_the_noise_of_both_sides() -> None:
    noisy = ratio([30, 32, 34], [18, 20, 22])
    assert noisy is not None and noisy.low is not None and noisy.value == 1.6
    # Squared relative errors 4/(3*1024) and 4/(3*400); Welch: 2 * sum² / (sum of squares).
    first, second = 4 / (3 * 1024), 4 / (3 * 400)
    freedom = 2 * (first + second) ** 2 / (first**2 + second**2)
    assert freedom == pytest.approx(3.3557, abs=1e-3)
    assert math.log(1.6 / noisy.low) / math.sqrt(first + second) == pytest.approx(2.997, abs=5e-3)  # t of 3.356


def test_overall_and_graft_over_dpiat() -> None:
    analysis = analyse(*known())
    graft = next(whole for whole in analysis.overalls if whole.initialization == "graft")
    value = (18 + 20 + 22.5) / 120
    assert graft.mean is not None
    assert graft.mean.value == pytest.approx((1.6 + value) / 2)
    assert graft.geometric == pytest.approx(math.sqrt(1.6 * value))
    assert (graft.wins, graft.pairs, graft.undefined) == (1, 2, ())
    assert (graft.mean.low, graft.mean.high) == pytest.approx((value, 1.6))  # of two pairs: both the one or the other
    watched = analysis.graft_over_dpiat
    assert watched is not None and watched.mean is not None
    assert {(s, t): v for s, t, v in watched.ratios} == {("a", "b"): 2.0, ("b", "a"): pytest.approx(value)}
    assert watched.mean.value == pytest.approx((2.0 + value) / 2)
    assert watched.wins == 1


def test_the_order_of_rows_does_not_matter() -> None:
    asked, rows = known()
    shuffled = random.Random(0).sample(rows, len(rows))
    assert analyse(asked, shuffled) == analyse(asked, rows)


def test_accuracies_last_best_and_before_training() -> None:
    rows = [run("random", "", "b", seed, (2.0, 30.0 + seed, 20.0)) for seed in range(3)]
    found = next(a for a in analyse(experiment(), rows).accuracies if a.case == Case("random", "", "b"))
    assert (found.last, found.best, found.zero_shot) == (20.0, 31.0, 2.0)
    assert (found.last_spread, found.best_spread, found.n) == (0.0, 1.0, 3)


def test_holm_and_the_paired_test_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    # Differences 2, 3, 4: t = 3 √3, and with two degrees of freedom p = 1 - t / √(2 + t²).
    t = 3 * math.sqrt(3)
    assert paired_test([3, 5, 7], [1, 2, 3]) == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert paired_test([3.0], [1.0]) is None
    assert paired_test([3.0, 4.0], [1.0, 2.0]) is None, "the same difference twice is no evidence"
    assert paired_test([3.0, 4.0], [3.0, 4.0]) == 1.0
    assert signed_rank([1.0, 2.0, 3.0]) == pytest.approx(0.25)  # 2 of 8 assignments of signs
    assert signed_rank([0.0, 0.0]) is None


def test_verdicts_pair_seeds_and_correct_within_an_initialization() -> None:
    asked, rows = known()
    found = {verdict.case: verdict for verdict in analyse(asked, rows).verdicts}
    worse = found[Case("graft", "b", "a")]  # differences -20, -20, -19.5
    assert worse.difference == pytest.approx(-119 / 6)
    assert worse.marked == "worse" and worse.holds and worse.seeds == 3
    assert worse.p is not None and worse.holm == pytest.approx(2 * worse.p)
    assert found[Case("dpiat", "b", "a")].marked == ""
    without = [row for row in rows if row.key != "random--a-0"]
    fewer = {verdict.case: verdict for verdict in analyse(asked, without).verdicts}[Case("graft", "b", "a")]
    assert fewer.seeds == 2 and fewer.difference == pytest.approx(-19.75), "seed 0 has no partner"


def test_correlation_by_hand_and_ranges_of_similarity() -> None:
    nets = ("a", "b", "c", "d", "e")
    asked = experiment(nets, pairs=tuple((net, "e") for net in nets[:4]))
    rows = runs("random", "", "e", (10.0, 10.0, 10.0))
    for net, alike, final in zip(nets, (0.3, 0.45, 0.6, 0.75), (5.0, 10.0, 15.0, 25.0), strict=False):
        rows += runs("graft", net, "e", (final, final, final), alike)
    analysis = analyse(asked, rows)
    found = next(c for c in analysis.correlations if c.measure == "graft")
    # Deviations ±0.225 and ±0.075 against -0.875, -0.375, 0.125, 1.125.
    r = 0.4875 / math.sqrt(0.1125 * 2.1875)
    assert found.own and found.pairs == 4
    assert found.pearson is not None and found.spearman is not None
    assert found.pearson.value == pytest.approx(r)
    assert found.pearson.low == pytest.approx(math.tanh(math.atanh(r) - 1.959964), abs=1e-6)
    assert found.pearson.high == pytest.approx(math.tanh(math.atanh(r) + 1.959964), abs=1e-6)
    assert found.spearman.value == pytest.approx(1.0)
    by_name = {band.name: band for band in analysis.bands}
    assert {name: (band.pairs, band.wins) for name, band in by_name.items()} == {
        "above 0.6": (2, 2),  # 0.6 itself belongs here
        "0.45 to 0.6": (1, 0),
        "below 0.45": (1, 0),
    }
    upper = by_name["above 0.6"].mean
    assert upper is not None and upper.value == pytest.approx(2.0)


def test_correlations_of_too_little_are_none() -> None:
    assert pearson([0.1, 0.2], [1, 2]) is None
    assert pearson([0.1, 0.1, 0.1], [1, 2, 3]) is None
    assert spearman([0.1, 0.2, 0.3], [1, 1, 1]) is None
    found = pearson([0.1, 0.2, 0.3], [1, 2, 3.5])
    assert found is not None and found[0].low is None, "three points have no interval"
    ordered = spearman([0.1, 0.2, 0.3, 0.4], [1, 3, 2, 4])
    assert ordered is not None and ordered[0].value == pytest.approx(0.8)
    assert ordered[0].low is not None and ordered[0].low < 0.8


def test_without_similarity_there_is_no_correlation() -> None:
    rows = [*runs("random", "", "b", (10.0, 11.0)), *runs("graft", "a", "b", (12.0, 12.0))]
    analysis = analyse(experiment(), rows)
    assert (analysis.points, analysis.correlations, analysis.bands) == ((), (), ())
    assert correlations(()) == bands(()) == ()
    assert points(analysis.runs, analysis.effects) == ()


@pytest.mark.parametrize(
    ("accuracies", "threshold", "epoch", "reached"),
    [
        ((10.0, 30.0, 50.0), 25.0, 0.75, True),
        ((10.0, 30.0, 50.0), 50.0, 2.0, True),
        ((10.0, 30.0, 20.0, 60.0), 25.0, 0.75, True),  # the first time counts
        ((30.0, 20.0), 25.0, 0.0, True),
        ((10.0, 20.0), 25.0, 1.0, False),
    ],
)
def test_time_to_an_accuracy(accuracies: tuple[float, ...], threshold: float, epoch: float, reached: bool) -> None:
    found = first_reach(curve(*accuracies), threshold)
    assert (found.epoch, found.step, found.seconds, found.reached) == (epoch, 50 * epoch, 10 * epoch, reached)


def test_speed_ups_and_their_bounds() -> None:
    asked = experiment(thresholds=(25.0,), seeds=(0, 1))
    slow, fast, never = (5.0, 10.0, 20.0, 30.0), (10.0, 30.0, 40.0, 50.0), (5.0, 6.0, 7.0, 8.0)

    def speed(random_runs: list[tuple[float, ...]], mine: list[tuple[float, ...]]) -> tuple[str, float | None, int]:
        rows = [run("random", "", "b", seed, values) for seed, values in enumerate(random_runs)]
        rows += [run("graft", "a", "b", seed, values) for seed, values in enumerate(mine)]
        (found,) = speeds(times(collect(asked, rows)))
        assert sum(summarize([found])[0].counts.values()) == 1
        return found.relation, found.value, found.time.reached

    assert speed([slow, slow], [fast, fast]) == ("=", pytest.approx(2.5 / 0.75), 2)
    assert speed([never, never], [fast, fast]) == ("at least", pytest.approx(3 / 0.75), 2)
    assert speed([never, slow], [fast, fast]) == ("at least", pytest.approx(2.75 / 0.75), 2)
    assert speed([slow, slow], [fast, never]) == ("at most", pytest.approx(2.5 / 1.875), 1)
    assert speed([never, never], [never, fast]) == ("open", None, 1)
    assert speed([slow, slow], [(40.0, 50.0, 60.0, 70.0)] * 2) == ("at once", None, 2)


def test_a_run_that_broke_never_reaches_an_accuracy() -> None:
    asked = experiment(thresholds=(25.0,), seeds=(0,))
    rows = [run("random", "", "b", 0, (5.0, 10.0, 20.0, 30.0))]
    rows += [run("graft", "a", "b", 0, (5.0, 6.0), exploded="loss is nan at epoch 2, step 51")]
    (found,) = speeds(times(collect(asked, rows)))
    assert (found.relation, found.time.epoch, found.time.step) == ("at most", 3.0, 150.0)
    analysis = analyse(asked, rows)
    assert [row.key for row in analysis.runs.exploded] == ["graft-a-b-0"]
    (effect,) = analysis.effects
    assert effect.value == pytest.approx(0.2) and effect.exploded == 1, "it counts as it was last measured"
    held = next(c for c in analysis.target_curves if c.initialization == "graft")
    assert held.means == (5.0, 6.0, 6.0, 6.0)
    only_start = [rows[0], run("graft", "a", "b", 0, (5.0,), exploded="loss is nan at epoch 1, step 1")]
    (broken,) = speeds(times(collect(asked, only_start)))
    assert (broken.relation, broken.value) == ("open", None)


def test_curves_weigh_all_targets_alike() -> None:
    asked = experiment(("a", "b", "c"), pairs=(("a", "c"), ("b", "c"), ("a", "b")), seeds=(0,))
    rows = [run("random", "", "c", 0, (0.0, 30.0)), run("random", "", "b", 0, (0.0, 60.0))]
    rows += [run("graft", source, target, 0, (1.0, 10.0)) for source, target in asked.pairs]
    found = {c.initialization: c for c in analyse(asked, rows).pair_curves}
    assert found["random"].means == (0.0, 40.0), "target c stands in two pairs"
    assert found["random"].n == found["graft"].n == 3
    assert found["graft"].spreads == (0.0, 0.0)


def test_the_ablation_knows_defaults_in_any_spelling() -> None:
    mean = bootstrap([1.5])
    wholes = [
        Overall(name, mean, None, None, 1, 1, ()) for name in ("dpiat", "dpiat:full", "dpiat:full:bipartite", "graft")
    ]
    cells = [(v.method, v.matcher, v.operator) for v in ablation(wholes)]
    assert cells == [("dpiat", "dp", "clip"), ("dpiat", "dp", "full"), ("dpiat", "bipartite", "full")]
    assert ablation(wholes[:1]) == (), "one variant is no ablation"


def test_one_seed_has_no_spread_and_no_test() -> None:
    rows = [run("random", "", "b", 0, (1.0, 10.0)), run("graft", "a", "b", 0, (1.0, 15.0), 0.5)]
    analysis = analyse(experiment(seeds=(0,)), rows)
    (effect,) = analysis.effects
    assert (effect.value, effect.spread, effect.low) == (1.5, None, None)
    assert analysis.verdicts[0].p is None and analysis.verdicts[0].holm is None
    assert deviation([1.0]) is None


def test_missing_and_zero_baselines_are_told() -> None:
    rows = runs("graft", "a", "b", (10.0, 11.0, 12.0))
    none = analyse(experiment(), rows)
    assert none.effects == none.verdicts == none.speeds == ()
    assert none.overalls[0].mean is None and none.overalls[0].undefined == (Case("graft", "a", "b"),)
    zero = analyse(experiment(), rows + runs("random", "", "b", (0.0, 0.0, 0.0)))
    assert zero.effects[0].value is None
    assert zero.overalls[0].undefined == (Case("graft", "a", "b"),)
    assert zero.verdicts[0].difference == pytest.approx(11.0), "the difference is defined where the ratio is not"
    collapsed = rows + runs("dpiat", "a", "b", (0.0, 0.0, 0.0))
    found = compare(collect(experiment(), collapsed), "graft", "dpiat")
    assert found is not None
    assert (found.ratios, found.undefined, found.wins) == ((), (("a", "b"),), 1)


def test_what_is_missing_is_listed_by_case_and_seed() -> None:
    asked, rows = known()
    runs_there = collect(asked, [row for row in rows if row.key not in ("graft-a-b-1", "random--a-2")])
    assert [(m.case, m.seeds) for m in runs_there.missing] == [
        (Case("random", "", "a"), (2,)),
        (Case("graft", "a", "b"), (1,)),
    ]
    assert runs_there.asked(Case("graft", "a", "b")) and not runs_there.asked(Case("graft", "a", "a"))
    nothing = collect(asked, [])
    assert sum(len(m.seeds) for m in nothing.missing) == len(rows) == 18
    assert analyse(asked, []).pair_curves == ()


def test_pretrained_is_only_asked_for_where_there_are_weights() -> None:
    asked = experiment(initializations=("random", "pretrained"), pretrained={"a": "a.safetensors"}, seeds=(0,))
    assert [m.case for m in collect(asked, []).missing] == [
        Case("random", "", "a"),
        Case("random", "", "b"),
        Case("pretrained", "", "a"),
    ]


def test_rows_of_others_twice_and_without_a_curve_are_counted() -> None:
    asked, rows = known()
    strangers = [
        run("graft", "a", "z", 0, (1.0,)),
        run("graft", "a", "b", 9, (1.0,)),
        replace(run("name_shape", "a", "b", 0, (1.0,)), key="other"),
    ]
    found = collect(asked, [*rows, rows[0], *strangers])
    assert (found.foreign, found.repeated, found.missing) == (3, 1, ())
    empty = replace(rows[0], curve=(), exploded="loss is nan at epoch 1, step 1")
    broken = collect(asked, [empty, *rows[1:]])
    assert broken.unmeasured == (empty,)
    assert [m.case for m in broken.missing] == [Case("random", "", "b")]


def test_two_settings_in_one_place_are_refused() -> None:
    asked, rows = known()
    with pytest.raises(LabError, match=r"graft-a-b-0 and other .* b by graft from a with seed 0, .* one experiment"):
        collect(asked, [*rows, replace(run("graft", "a", "b", 0, (1.0, 2.0)), key="other")])


def test_sources_are_named_and_pairs_leave_out_the_same_network() -> None:
    asked = experiment(sources=(Source("a0", "a"), Source("a1", "a", seed=1), Source("b0", "b")))
    assert collect(asked, []).pairs == (("b0", "a"), ("a0", "b"), ("a1", "b"))
    assert collect(asked, []).source_names == ("a0", "a1", "b0")


def test_the_bootstrap_is_seeded_and_brackets_the_mean() -> None:
    values = [0.53, 0.91, 1.0, 1.17, 1.26, 1.38, 1.74, 2.02, 3.1]
    first, again, other = bootstrap(values, 1), bootstrap(values, 1), bootstrap(values, 2)
    assert first == again != other
    assert first is not None and first.low is not None and first.high is not None
    assert 0.91 < first.low < first.value < first.high < 2.02
    assert first.value == pytest.approx(13.11 / 9)
    assert bootstrap([]) is None
    single = bootstrap([2.0])
    assert single is not None and (single.value, single.low, single.n) == (2.0, None, 1)


def test_the_table_of_runs_has_a_line_per_run() -> None:
    _, rows = known()
    table = frame(run_lines(rows))
    assert len(table) == len(rows)
    assert table.loc[table.key == "graft-a-b-1", "accuracy"].item() == 34.0
    assert table.loc[table.key == "graft-a-b-1", "similarity_dpiat"].item() == 0.7


def test_rows_are_chosen_by_key_and_take_the_names_of_the_experiment() -> None:
    asked = experiment(seeds=(0,))
    _, targets = tasks_of(asked)
    graft = next(task for task in targets if (task.initialization, task.network) == ("graft", "b"))
    elsewhere = replace(run("graft", "first", "second", 0, (1.0, 15.0)), key=graft.key)
    (mine,) = rows_of(asked, [elsewhere, run("graft", "a", "b", 0, (1.0, 99.0))])
    assert (mine.key, mine.source, mine.network, mine.accuracy) == (graft.key, "a", "b", 15.0)
    other = replace(asked, recipe=replace(asked.recipe, batch=64))
    assert rows_of(other, [elsewhere]) == (), "another recipe is another run"


def test_an_experiment_without_random_does_not_miss_it() -> None:
    asked = experiment(initializations=("graft",), seeds=(0,))
    assert {m.case.initialization for m in collect(asked, []).missing} == {"graft"}
