"""The front of KLD against bits, and who dominates whom."""

from turbobench.pareto import Placed, Point, place

POINTS = (
    Point(name="big", bpv=8.5, kld=0.0001, kld_err=0.00001),
    Point(name="good", bpv=4.25, kld=0.030, kld_err=0.001),
    Point(name="old", bpv=4.5, kld=0.040, kld_err=0.001),
    Point(name="close", bpv=4.5, kld=0.031, kld_err=0.001),
    Point(name="small", bpv=3.25, kld=0.140, kld_err=0.002),
)


def placed(*points: Point) -> dict[str, Placed]:
    return {found.point.name: found for found in place(points)}


def test_the_front_is_what_nothing_beats_in_both() -> None:
    assert [found.point.name for found in place(POINTS) if found.on_front] == ["small", "good", "big"]


def test_a_dominated_point_names_all_that_beat_it_the_best_first() -> None:
    assert placed(*POINTS)["old"].dominated_by == ("good", "close")
    assert placed(*POINTS)["close"].dominated_by == ("good",)


def test_a_difference_within_error_dominates_but_not_clearly() -> None:
    found = placed(*POINTS)
    assert found["old"].clearly == ("good", "close")
    assert found["close"].clearly == ()


def test_equal_points_do_not_dominate_each_other_and_one_better_axis_is_enough() -> None:
    twin = Point(name="twin", bpv=4.25, kld=0.030, kld_err=0.001)
    assert placed(*POINTS, twin)["twin"].on_front
    assert placed(*POINTS, twin)["good"].on_front
    cheaper = Point(name="cheaper", bpv=4.0, kld=0.030, kld_err=0.001)
    assert placed(*POINTS, cheaper)["good"].dominated_by == ("cheaper",)


def test_points_come_with_the_fewest_bits_first() -> None:
    assert [found.point.bpv for found in place(POINTS)] == [3.25, 4.25, 4.5, 4.5, 8.5]
