"""Real tools take what repair makes of real windows, damaged as a model would."""

import re
import shutil
import subprocess

import pytest
from tools import tshark_complaints
from windows import DAMAGE, repaired, write_pcap

from netdiff_ray.nprint import layout_named


@pytest.fixture(params=["timed", "nprint-1088"])
def layout(request):
    return layout_named(request.param)


@pytest.mark.usefixtures("tshark")
@pytest.mark.parametrize("damage", DAMAGE)
def test_tshark_has_no_complaint(real_windows, layout, damage, tmp_path):
    path = tmp_path / "repaired.pcap"
    results = repaired(real_windows[:150], layout, damage)
    assert not any(result.rejected for result in results)
    write_pcap(path, results)
    assert not tshark_complaints(path)
    if shutil.which("capinfos"):
        told = subprocess.run(["capinfos", "-o", path], capture_output=True, text=True, check=True)
        assert "Strict time order:   True" in told.stdout


@pytest.mark.parametrize("damage", ["none", "5 %"])
def test_other_readers_read_it_all(real_windows, layout, damage, tmp_path):
    path = tmp_path / "repaired.pcap"
    results = repaired(real_windows, layout, damage)
    write_pcap(path, results)
    count = sum(len(result.packets) for result in results)
    if not shutil.which("tcptrace") and not shutil.which("ndpiReader"):
        pytest.skip("needs tcptrace or ndpiReader")
    if shutil.which("tcptrace"):
        told = subprocess.run(["tcptrace", path], capture_output=True, text=True, check=True)
        assert f"{count} packets seen" in told.stdout
    if shutil.which("ndpiReader"):
        told = subprocess.run(
            ["ndpiReader", "-i", path], capture_output=True, text=True, check=True
        )
        assert re.search(rf"IP packets:\s+{count}\s+of {count} packets total", told.stdout)
