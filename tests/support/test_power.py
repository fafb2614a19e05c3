"""The power of a core: by the machine's counter, as stated, or not known; never a wrong number."""

import pytest

from qsample.support import power


def package(folder, number, energy, whole=10**9):
    """A package's counter, as the kernel shows it."""
    path = folder / f"intel-rapl:{number}"
    path.mkdir(exist_ok=True)
    (path / "energy_uj").write_text(f"{energy}\n")
    (path / "max_energy_range_uj").write_text(f"{whole}\n")


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(power.time, "monotonic", lambda: now[0])
    return now


def test_the_counter_of_two_packages_one_of_which_wraps(tmp_path, clock):
    package(tmp_path, 0, 5_000_000)
    package(tmp_path, 1, 900, whole=1_000)
    package(tmp_path, "0:0", 77)  # cores of package 0: a part of it
    counter = power.Counter(tmp_path)
    assert counter.watts() is None  # nothing to take a mean of
    clock[0] += 2
    package(tmp_path, 0, 105_000_000)
    package(tmp_path, 1, 100, whole=1_000)
    assert counter.watts() == pytest.approx((100_000_000 + 200) / 1e6 / 2)
    package(tmp_path, 0, 0)
    assert counter.watts() == pytest.approx(50.0001)  # read once a second
    for name in ("energy_uj", "max_energy_range_uj"):
        (tmp_path / "intel-rapl:0" / name).unlink()
    clock[0] += 5
    assert counter.watts() == pytest.approx(50.0001)  # a counter that goes away


@pytest.mark.parametrize("content", [None, "", "many"])
def test_a_counter_that_cannot_be_read_is_none(tmp_path, content):
    if content is not None:
        package(tmp_path, 0, content)
    assert power.Counter(tmp_path / "nowhere").watts() is None
    assert power.Counter(tmp_path).watts() is None


def test_what_is_stated(monkeypatch):
    monkeypatch.setattr(power, "counter", lambda: power.Counter(power.Path("nowhere")))
    monkeypatch.delenv(power.STATED, raising=False)
    assert power.core_power().watts is None and "not known" in power.core_power().source
    monkeypatch.setenv(power.STATED, "280/64")
    assert power.core_power() == (4.375, "CPU: 280 W over 64 cores, as QSAMPLE_TDP states")
    for text in ("280", "280/0", "x/2", "-3/2", "nan/2", "280/6.5"):
        monkeypatch.setenv(power.STATED, text)
        with pytest.raises(ValueError, match="expected QSAMPLE_TDP as watts .* got"):
            power.core_power()
