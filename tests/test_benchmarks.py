"""What the benchmark says of what it measured."""

from benchmarks import reconnect
from benchmarks.report import table

Figures = dict[str, float]


def line(results: dict[str, dict[str, Figures]], label: str) -> list[str]:
    [found] = [row for row in table(results) if row.startswith(f"| {label} ")]
    return [cell.strip() for cell in found.strip("|").split("|")][1:]


def test_a_budget_is_met_or_not_by_the_best_peer() -> None:
    figures = {"y-websocket": {"cpu_edit": 50.0}, "hocuspocus": {"cpu_edit": 80.0}}
    label = "server CPU per edit, µs"
    ours = {"collab": {"cpu_edit": 41.0}}
    assert line({"small": ours | figures}, label)[3:] == [
        "0.82x",
        "≤ 0.8x",
        "**not met**",
    ]
    ours = {"collab": {"cpu_edit": 39.0}}
    assert line({"small": ours | figures}, label)[3:] == ["0.78x", "≤ 0.8x", "met"]


def test_what_was_lost_meets_no_budget() -> None:
    ours = {"collab": {"ack_p99": 1.0, "complete": 0.0}}
    label = "edit sent → acknowledged p99, ms"
    assert line({"ack": ours}, label)[-1] == "**not met**"


def test_a_server_that_failed_is_shown_and_compared_with_nobody() -> None:
    label = "server CPU per edit, µs"
    failed: Figures = {"failed": 1.0}
    measured: Figures = {"cpu_edit": 50.0}
    ours = line({"small": {"collab": failed, "y-websocket": measured}}, label)
    assert ours == ["–", "50", "", "≤ 0.8x", "**failed**"]
    theirs = line({"small": {"collab": measured, "y-websocket": failed}}, label)
    assert theirs == ["50", "–", "", "≤ 0.8x", ""]


def test_each_dialect_of_ours_is_compared_with_the_best_peer() -> None:
    figures: dict[str, Figures] = {
        "collab": {"cpu_edit": 39.0},
        "collab-hocuspocus": {"cpu_edit": 41.0},
        "y-websocket": {"cpu_edit": 50.0},
    }
    assert line({"small": figures}, "server CPU per edit, µs")[3:] == [
        "0.78x",
        "0.82x",
        "≤ 0.8x",
        "met",
        "**not met**",
    ]


def test_who_comes_back_is_compared_with_the_best_peer() -> None:
    figures = {row.figure: 3.0 for row in reconnect.ROWS}
    servers = {name: figures | {"cpu": 2.0} for name in reconnect.NAMES}
    servers["collab.v1"] = figures | {"cpu": 0.5}
    servers["hocuspocus"] = figures | {"cpu": 1.0}
    [found] = [
        row for row in reconnect.table({"plain": servers}) if row.startswith("| server")
    ]
    assert found.endswith("| 0.5 | 2 | 2 | 2 | 2 | 1 | 0.5x |")
