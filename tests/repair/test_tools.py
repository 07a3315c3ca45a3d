"""Real tools take what repair makes of real windows, damaged as a model would."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from tools import tshark_complaints
from windows import DAMAGE, repaired, write_pcap

from netdiff_ray.nprint import layout_named
from netdiff_ray.repair import RepairContext, repair


@pytest.fixture(params=["stateful", "nprint-1088"])
def layout(request):
    return layout_named(request.param)


@pytest.mark.usefixtures("tshark")
@pytest.mark.parametrize("damage", DAMAGE)
def test_tshark_has_no_complaint(real_windows, layout, damage, tmp_path):
    path = tmp_path / "repaired.pcap"
    results = repaired(real_windows[:150], layout, damage)
    assert not any(result.rejected for result in results)
    lossy = write_pcap(path, results)
    assert not tshark_complaints(path, lossy=lossy)
    if shutil.which("capinfos"):
        told = subprocess.run(["capinfos", "-o", path], capture_output=True, text=True, check=True)
        assert "Strict time order:   True" in told.stdout


@pytest.mark.usefixtures("tshark")
@pytest.mark.parametrize("damage", ["none", "20 %"])
def test_tshark_has_no_complaint_of_known_profiles(real_windows, damage, tmp_path):
    path = tmp_path / "repaired.pcap"
    windows = real_windows[:150]
    results = repaired(windows, layout_named("stateful"), damage, profiles=True)
    without = repaired(windows, layout_named("stateful"), damage)
    changed = [sum(int(r.corrected.sum()) for r in found) for found in (results, without)]
    assert changed[0] > changed[1]
    lossy = write_pcap(path, results)
    assert not tshark_complaints(path, lossy=lossy)


@pytest.mark.usefixtures("tshark")
def test_tshark_has_no_complaint_of_headers_alone(real_windows, tmp_path):
    path = tmp_path / "repaired.pcap"
    layout = layout_named("stateful")
    drawn = [window.nprint(layout) for window in real_windows[:100]]
    lossy = write_pcap(path, [repair(drawn, layout, RepairContext(payload="none"), np.arange(100))])
    assert not tshark_complaints(path, lossy=lossy)


def noise(layout, seed):
    """Return a matrix of random cells that leans to one IP version and one transport header."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(-1 if seed % 2 else 0, 2, (int(rng.integers(1, 32)), layout.width))
    vacant = {"ipv4", "ipv6"} - {("ipv4", "ipv6")[seed // 4 % 2]}
    vacant |= {"tcp", "udp", "icmp"} - {("tcp", "udp", "icmp")[seed % 3]}
    for field in layout.fields:
        if field.split("_")[0] in vacant:
            cells[:, layout.columns(field)] = -1
    return cells.astype(np.int8)


@pytest.mark.usefixtures("tshark")
def test_tshark_has_no_complaint_of_noise(layout, tmp_path):
    path = tmp_path / "repaired.pcap"
    context = RepairContext(server_ports=(22, 53, 80, 443, 1883))
    result = repair([noise(layout, k) for k in range(240)], layout, context, np.arange(240))
    kinds = zip(
        result.batch.flows.version.tolist(), result.batch.flows.protocol.tolist(), strict=True
    )
    assert set(kinds) == {(4, 6), (4, 17), (4, 1), (6, 6), (6, 17), (6, 58)}
    lossy = write_pcap(path, [result])
    assert not tshark_complaints(path, lossy=lossy)


@pytest.mark.parametrize("damage", ["none", "5 %"])
def test_other_readers_read_it_all(real_windows, layout, damage, tmp_path):
    path = tmp_path / "repaired.pcap"
    results = repaired(real_windows[:150], layout, damage)
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
