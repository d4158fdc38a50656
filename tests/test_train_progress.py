import io
import re

from dcpt_jax.data.phases import Phase
from dcpt_jax.train import progress


def test_a_line_for_each_report_where_the_output_is_no_terminal(capsys):
    bar = progress.Progress("pretrain", start=10, total=30, phases=[Phase(0, 16, 8)])
    bar.step()
    bar.report(20, {"loss": 0.51234, "accuracy": 0.756, "gradient_norm_network": 3.0})
    bar.close()
    line = capsys.readouterr().out.strip()
    assert line.startswith("pretrain 20/30  loss 0.5123  accuracy 76%")
    assert re.search(r"\d steps/s  \d\d:\d\d left$", line)
    assert "gradient" not in line


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    bar = progress.Progress("restore", start=0, total=2, phases=[Phase(0, 16, 8)])
    bar.report(1, {"loss": 0.25, "psnr": 21.239})
    bar.step()
    bar.step()
    bar.close()
    assert "restore 2/2" in terminal.getvalue()
    assert "loss 0.2500  dB 21.24" in terminal.getvalue()
    assert capsys.readouterr().out == ""
