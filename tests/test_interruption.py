import os
import signal
import threading

import pytest

from dcpt_jax.interruption import Interruption


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_noted_until_somebody_looks(number, status, capfd):
    with Interruption("stopping") as interruption:
        interruption.check()
        send(number)  # raises nothing here
        assert interruption.signal == number.name and interruption.status == status
        with pytest.raises(KeyboardInterrupt):
            interruption.check()
    assert capfd.readouterr().err == "\nstopping\n"


def test_a_second_ctrl_c_interrupts_at_once():
    with Interruption():
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_interruptions_are_seen_by_outer_and_inner_handlers():
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as outer:
        send(signal.SIGINT)
        with Interruption() as inner:
            assert inner.signal == "SIGINT"
    with Interruption() as outer:
        with Interruption():
            send(signal.SIGTERM)
        assert outer.signal == "SIGTERM"
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_nothing_is_installed():
    before, found = signal.getsignal(signal.SIGINT), []

    def work():
        with Interruption():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


def test_plain_python_can_be_interrupted_at_once():
    with Interruption() as interruption:
        with pytest.raises(KeyboardInterrupt), interruption.raising():
            signal.raise_signal(signal.SIGTERM)
        assert interruption.status == 143
        with pytest.raises(KeyboardInterrupt), interruption.raising():
            pytest.fail("what was noted before comes first")
