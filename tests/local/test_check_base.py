"""`netdiff check-base`: what an autoencoder does to header bits is counted."""

import json
import shutil

import numpy as np
import pytest
from packet_builders import pcap, tcp4, udp4
from tiny_models import TOY

from netdiff_ray.cli import main
from netdiff_ray.config.diffusion import BaseSettings, DrawSettings
from netdiff_ray.diffusion.adapter import adapter_digest, read_adapter
from netdiff_ray.diffusion.base import load_base
from netdiff_ray.diffusion.decoder_tuning import decoder_file
from netdiff_ray.diffusion.denoise import draw_batch
from netdiff_ray.diffusion.lora import load_adapter
from netdiff_ray.encoding.collection import list_captures
from netdiff_ray.encoding.encode import EncodeSettings, encode_part, encoded_part_name
from netdiff_ray.errors import ModelError
from netdiff_ray.generation.adapter_files import read_adapter_files
from netdiff_ray.labels.flow_plan import plan_flow
from netdiff_ray.local.check_base import base_table, compare
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT, layout_named
from netdiff_ray.pretraining.nano import build
from netdiff_ray.storage.manifest import ENCODED_DATASET, commit
from netdiff_ray.storage.store import open_store

LAYOUT = layout_named(DEFAULT_LAYOUT)


def made(num_packets, seed=0):
    """Return a window of TCP packets with random bits, and its raster's matrix."""
    bits = np.random.default_rng(seed).integers(0, 2, (num_packets, LAYOUT.width), np.int8)
    bits[:, ~LAYOUT.columns_of(("flow", "ipv4", "tcp"), options=False)] = -1
    raster = np.full((16, LAYOUT.width), -1, np.int8)
    raster[:num_packets] = bits
    return bits, raster


def test_what_comes_back_as_it_was_is_right():
    result = compare(16, LAYOUT, [made(5), made(16, seed=1)])
    assert (result.windows, result.wrong, result.invented, result.lost) == (2, 0, 0, 0)
    assert result.bits == 21 * (made(1)[0] != -1).sum()
    assert result.worst_field == ""
    assert result.wrong_share == 0


def test_wrong_invented_and_lost_are_told_apart():
    real, returned = made(5)
    returned[2, LAYOUT.columns("tcp_wsize")] = 1 - returned[2, LAYOUT.columns("tcp_wsize")]
    returned[0, LAYOUT.columns("udp_len").start] = 0
    returned[4] = -1
    other = made(9, seed=1)
    result = compare(16, LAYOUT, [(real, returned), other])
    columns = (real[0] != -1).sum()
    assert result.wrong == 16 + columns
    assert (result.invented, result.lost) == (1, 1)
    assert result.worst_field == "tcp_wsize"
    assert result.worst_share == pytest.approx(32 / (14 * 16))
    assert "tcp_wsize" in base_table([result])


def test_a_vacant_row_within_a_window_loses_the_packets_behind_it():
    real, returned = made(5)
    returned[1] = -1
    assert compare(16, LAYOUT, [(real, returned)]).lost == 1


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """Return an encoded dataset of two labels, its windows of at most 16 packets."""
    folder = tmp_path_factory.mktemp("encoded")
    for label in ("web", "dns"):
        (folder / "captures" / label).mkdir(parents=True)
        packets = [tcp4(2), udp4(), *[udp4(sport=9)] * 20, tcp4(0x10)]
        (folder / "captures" / label / "a.pcap").write_bytes(pcap(packets))
    source, captures, _ = list_captures(str(folder / "captures"))
    target = open_store(folder / "encoded")
    settings = EncodeSettings(layout=DEFAULT_LAYOUT, height=16, idle_timeout_s=60.0)
    config = {"layout": DEFAULT_LAYOUT, "height": 16}
    for number, capture in enumerate(captures):
        encode_part(source, [capture], target, number, settings, config)
    commit(target, ENCODED_DATASET, config, [encoded_part_name(k) for k in range(2)])
    return str(folder / "encoded")


def test_nano_keeps_the_bits(encoded, capsys):
    assert main(["check-base", "nano", "--data", encoded, "--json", "--device", "cpu"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["heights"]
    assert result["height"] == 16
    assert result["windows"] == 8
    assert result["wrong"] / result["bits"] < 1e-3


def test_random_weights_do_not(toy_directory, encoded, capsys):
    wanted = ["check-base", str(toy_directory), "--data", encoded, "--labels", "web"]
    assert main([*wanted, "--device", "cpu", "--windows", "2", "--batch-size", "3"]) == 1
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[:5] == ["height", "windows", "bits", "right", "lost"]
    assert row.split()[:2] == ["16", "2"]
    assert float(row.split()[3]) < 0.9


@pytest.fixture
def adapter(adapter_directory, tmp_path):
    """Return a copy of the toy base's adapter."""
    return shutil.copytree(adapter_directory, tmp_path / "adapter")


def tuning(base, encoded, adapter, *more):
    """Return the arguments that tune the decoder of a base."""
    return ["check-base", str(base), "--data", encoded, "--device", "cpu", "--adapter",
            str(adapter), "--learning-rate", "0.01", "--json", *more]  # fmt: skip


def test_a_tuned_decoder_keeps_more_bits_and_draws_with_the_adapter(
    toy_directory, adapter, encoded, capsys
):
    digest = adapter_digest(read_adapter_files(open_store(adapter)))
    drawn = rasters_by(toy_directory, adapter)
    main(tuning(toy_directory, encoded, adapter, "--tune-decoder", "60"))
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    (before,), (after,) = result["before"], result["heights"]
    assert before["bits"] == after["bits"]
    assert before["windows"] == after["windows"] == 2
    errors = [result["wrong"] + result["invented"] for result in (before, after)]
    assert errors[1] < errors[0] / 2
    assert "tuned 60 of 60 steps, loss" in shown.err
    assert adapter_digest(read_adapter_files(open_store(adapter))) != digest
    base = load_base(BaseSettings(base=str(toy_directory), device="cpu"))
    plain = {name: value.clone() for name, value in base.vae.state_dict().items()}
    load_adapter(base, read_adapter(adapter))
    changed = {n for n, value in base.vae.state_dict().items() if not value.equal(plain[n])}
    assert changed
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)
    assert not np.array_equal(rasters_by(toy_directory, adapter), drawn)


def rasters_by(directory, adapter_directory):
    """Return the raster of a window that an adapter draws."""
    adapter = read_adapter(adapter_directory)
    base = load_base(BaseSettings(base=str(directory), device="cpu"))
    load_adapter(base, adapter)
    window = plan_flow(adapter.metadata, "chat", 0, 0).samples[0]
    return draw_batch(base, adapter, [window], DrawSettings(steps=1, batch_size=1, hold_plan=False))


def test_the_same_command_gives_the_same_decoder(toy_directory, adapter, encoded):
    made = []
    for _ in range(2):
        main(tuning(toy_directory, encoded, adapter, "--tune-decoder", "3"))
        made.append((adapter / "decoder.safetensors").read_bytes())
    assert made[0] == made[1]


def test_a_decoder_of_another_base_is_refused(toy_directory, adapter, encoded, capsys, tmp_path):
    build(tmp_path / "other", TOY, seed=2)
    assert main(tuning(tmp_path / "other", encoded, adapter, "--tune-decoder", "1")) == 2
    assert "was trained on" in capsys.readouterr().err
    other = load_base(BaseSettings(base=str(tmp_path / "other"), device="cpu"))
    (adapter / "decoder.safetensors").write_bytes(decoder_file(other))
    base = load_base(BaseSettings(base=str(toy_directory), device="cpu"))
    with pytest.raises(ModelError, match="was tuned on another base"):
        load_adapter(base, read_adapter(adapter))
    (adapter / "decoder.safetensors").write_bytes(b"short")
    with pytest.raises(ModelError, match=r"decoder.safetensors cannot be read"):
        load_adapter(base, read_adapter(adapter))


def test_steps_and_adapter_belong_together(toy_directory, encoded, capsys):
    asked = ["check-base", str(toy_directory), "--data", encoded, "--tune-decoder", "5"]
    assert main(asked) == 2
    assert "belong together: give both, or neither" in " ".join(capsys.readouterr().err.split())


def test_labels_that_are_not_there_are_named(toy_directory, encoded, capsys):
    assert main(["check-base", str(toy_directory), "--data", encoded, "--labels", "mail"]) == 2
    assert "has no windows of mail; it has " in capsys.readouterr().err
