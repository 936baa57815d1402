"""The benchmark of the bridge, at a size at which nothing can be said about speed."""

from __future__ import annotations

from pathlib import Path

from troupelab.bench.tinytroupe import Sizes, run
from troupelab.bridges.tinytroupe import seams
from troupelab.cli import main

_TINY = Sizes(few=2, many=4, latencies_s=(0.01, 0.02), steps=4, heard=20, repetitions=1)


def test_both_sides_play_and_remember_the_same(tinytroupe, monkeypatch):
    """All figures are there; everybody remembers on this engine what they remember in TinyTroupe as it is."""
    monkeypatch.setenv(seams.FOLDER_VARIABLE, str(Path(tinytroupe.agent.__file__).parents[2]))
    made = run(sizes=_TINY)
    figures = made["figures"]
    assert figures.keys() >= {
        "speedup_0_2s", "speedup_2s", "speedup_0_2s_20", "speedup_2s_20", "speedup_consolidation", "adopt_ratio", "cpu_ms_per_agent_step",
        "extra_connections", "same_memories", "wall_s_0_2s_stock", "wall_s_0_2s_accelerate", "rss_mb_10k", "rss_mb_10k_stock",
    }  # fmt: skip
    assert figures["same_memories"] == figures["same_texts"] == figures["records_kept_share"] == 1.0
    assert figures["extra_connections"] == figures["errors"] == 0.0
    assert figures["records_consolidation"] >= 2 * 4 * 2  # each of two hears and does something in each of four steps
    assert made["tinytroupe"] == tinytroupe.version
    assert made["stock"]["waiting_time"] == 0
    assert made["stock"]["max_concurrent_model_calls"] is None


def test_without_tinytroupe_there_is_one_sentence(tmp_path, monkeypatch, capsys):
    """Where it is not installed, the command says what to do."""
    monkeypatch.setenv(seams.FOLDER_VARIABLE, str(tmp_path))
    assert main(["bench", "tinytroupe", "--quick"]) == 2
    assert "name the folder that contains it" in capsys.readouterr().err
