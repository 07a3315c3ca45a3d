"""When the learning rate falls and a training ends."""

import pytest

from netdiff_ray.config.diffusion import EvidenceSettings, OptimizationSettings
from netdiff_ray.diffusion.schedule import (
    MINUTES,
    NO_GAIN,
    STEPS,
    after_measurement,
    after_step,
    learning_rate_at,
    planned,
)

EVIDENCE = EvidenceSettings(patience=2, min_gain=0.01)


def settings(**chosen):
    return OptimizationSettings(
        **{"steps": 100, "warmup_steps": 10, "learning_rate": 1.0, "decay_share": 0.5, **chosen}
    )


def measured(losses, chosen, first=10):
    """Return the schedule after a loss has been measured every ten steps from `first` on."""
    schedule = planned(chosen)
    for k, loss in enumerate(losses):
        schedule = after_measurement(schedule, first + 10 * k, loss, EVIDENCE, chosen)
    return schedule


def test_the_learning_rate_warms_up_stays_and_falls_to_nothing():
    chosen = settings()
    rates = [learning_rate_at(step, planned(chosen), chosen) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:51] == [1.0] * 42
    assert rates[75] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)


def test_the_learning_rate_falls_from_the_warm_up_on_or_never():
    always, never = settings(decay_share=1.0), settings(decay_share=0.0)
    assert learning_rate_at(9, planned(always), always) == 1.0
    assert learning_rate_at(55, planned(always), always) == pytest.approx(0.5)
    assert learning_rate_at(99, planned(never), never) == 1.0


def test_a_training_shorter_than_its_warm_up():
    chosen = settings(steps=4)
    rates = [learning_rate_at(step, planned(chosen), chosen) for step in range(4)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_gains_go_on_and_the_lowest_loss_is_kept():
    schedule = measured([1.0, 0.9, 0.899, 0.88], settings())  # the third is lower, not a gain
    assert (schedule.decay_from, schedule.last_step, schedule.reason) == (50, 100, STEPS)
    assert (schedule.best_loss, schedule.best_step) == (0.88, 40)
    assert schedule.heldout_loss == 0.88


def test_small_gains_that_add_up_are_gains():
    losses = [1.0, 0.995, 0.989, 0.984, 0.978]  # less than 1 % each, more than 1 % every other
    assert measured(losses, settings(steps=1000)).reason == STEPS


def test_no_gain_lets_the_learning_rate_fall_at_once():
    chosen = settings()
    schedule = measured([1.0, 0.999, 1.2], chosen)
    assert (schedule.decay_from, schedule.last_step, schedule.reason) == (30, 60, NO_GAIN)
    assert (schedule.best_loss, schedule.best_step) == (0.999, 20)
    assert learning_rate_at(30, schedule, chosen) == 1.0
    assert learning_rate_at(45, schedule, chosen) == pytest.approx(0.5)


def test_no_gain_while_the_learning_rate_falls_ends_the_training():
    schedule = measured([1.0, 1.0, 1.0, 1.0, 1.0], settings())
    assert (schedule.decay_from, schedule.last_step, schedule.reason) == (30, 50, NO_GAIN)
    always = settings(decay_share=1.0)
    schedule = measured([1.0, 1.0, 1.0], always)
    assert (schedule.last_step, schedule.reason) == (30, NO_GAIN)


def test_the_fall_ends_no_later_than_the_most_steps():
    schedule = measured([1.0, 1.0, 1.0], settings(steps=40, warmup_steps=35))
    assert (schedule.decay_from, schedule.last_step) == (30, 40)


def test_a_loss_that_is_no_number_is_no_gain():
    schedule = measured([1.0, float("nan"), float("nan")], settings())
    assert (schedule.reason, schedule.best_loss, schedule.best_step) == (NO_GAIN, 1.0, 10)


def test_the_learning_rate_falls_in_the_last_share_of_the_minutes():
    chosen = settings(minutes=2.0)
    schedule = after_step(planned(chosen), 20, 59.0, chosen)
    assert (schedule.last_step, schedule.reason, schedule.elapsed_s) == (100, STEPS, 59.0)
    schedule = after_step(schedule, 21, 60.0, chosen)
    assert (schedule.decay_from, schedule.last_step, schedule.reason) == (21, 42, MINUTES)
    assert after_step(schedule, 41, 119.0, chosen).last_step == 42
    slower = after_step(schedule, 30, 120.0, chosen)
    assert (slower.last_step, slower.reason) == (30, MINUTES)


def test_minutes_do_not_disturb_a_fall_that_has_begun():
    chosen = settings(minutes=2.0)
    schedule = after_step(measured([1.0, 1.0, 1.0], chosen), 31, 70.0, chosen)
    assert (schedule.decay_from, schedule.last_step, schedule.reason) == (30, 60, NO_GAIN)


def test_without_minutes_time_does_not_matter():
    chosen = settings()
    schedule = after_step(planned(chosen), 20, 1e9, chosen)
    assert (schedule.decay_from, schedule.last_step, schedule.reason) == (50, 100, STEPS)
