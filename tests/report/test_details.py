from __future__ import annotations

from must_jax.report.details import MOST_CONFUSIONS, Confusion, Details, Lines, Table, compared

TABLE = Table(["a", "b", "c", "d"], {"iou": [50.0, None, 10.0, 90.0], "boxes": [3, 9, 5, 1]})


def test_the_worst_class_comes_first_and_one_without_a_figure_last():
    assert [name for name, _ in TABLE.rows] == ["c", "a", "d", "b"]
    assert TABLE.rows[0] == ("c", [10.0, 5])


def test_every_column_can_be_sorted_by():
    """The place of each row, by either column."""
    assert TABLE.places == [[0, 2], [1, 1], [2, 0], [3, 3]]
    assert Table([], {"iou": []}).places == [] and Table(["a"], {}).rows == [("a", [])]


def test_confusions_are_the_largest_mistakes_not_the_hits():
    confusion = Confusion(["a", "b"], [[90, 2, 8], [0, 0, 0]])
    assert confusion.predicted == ["a", "b", "none"]
    assert confusion.largest == [("a", "none", 8, 0.08), ("a", "b", 2, 0.02)]
    assert confusion.shares.tolist() == [[0.9, 0.02, 0.08], [0, 0, 0]]
    assert Confusion([], []).largest == []


def test_only_some_of_many_confusions_are_listed():
    classes = [str(i) for i in range(50)]
    confusion = Confusion(classes, [[t + p for p in range(50)] for t in range(50)])
    assert len(confusion.largest) == MOST_CONFUSIONS
    assert confusion.largest[0][:3] == ("48", "49", 97)


def test_several_models_have_a_line_each_in_every_picture():
    """Of precision and recall by score, one is drawn over the other. What only one model has is there, too."""

    def of(low: float, remark: str = "") -> Details:
        by_score = {"precision": ([0.0, 0.5], [low, 90.0]), "recall": ([0.0, 0.5], [80.0, 20.0])}
        curves = (Lines("boxes", "score", "%", by_score), Lines("angles", "degrees", "", {"share": ([1.0], [low])}))
        return Details(Table(["a"], {"AP": [low], "boxes": [3]}), None, curves, remark)

    figure, both = compared({"one": of(10.0), "other": of(30.0), "blind": Details(remark="nothing is predicted")})
    boxes, angles = both.curves
    assert (boxes.title, boxes.x, boxes.y) == ("boxes", "recall, %", "precision, %")
    assert boxes.series == {"one": ([80.0, 20.0], [10.0, 90.0]), "other": ([80.0, 20.0], [30.0, 90.0])}
    assert angles.series == {"one": ([1.0], [10.0]), "other": ([1.0], [30.0])}
    assert figure == "AP" and both.per_class is not None and both.per_class.columns == {"one": [10.0], "other": [30.0]}
    assert both.remark == "blind: nothing is predicted"
